"use strict";

// The form of a configuration: presets, the fields of the chosen way to log in, and the test of what is typed. Without
// this script there are no presets, all fields are shown, and the test opens a page of its own.
document.addEventListener("DOMContentLoaded", () => {
    const form = document.getElementById("smtpconfig_form");
    if (!form) {
        return;
    }

    // What is hidden is not kept: the server forgets what the chosen way does not use.
    const authentication = form.elements.authentication;
    const grant = form.elements.oauth_grant;

    function showWhatApplies() {
        const oauth = authentication.value === "oauth";
        const byConsent = oauth && grant.value === "refresh_token";
        const shown = {
            username: authentication.value !== "none",
            password: authentication.value === "password",
            oauth_grant: oauth,
            oauth_endpoint: oauth,
            oauth_authorization_endpoint: byConsent,
            oauth_client_id: oauth,
            oauth_client_secret: oauth && grant.value !== "jwt_bearer",
            oauth_refresh_token: byConsent,
            consent: byConsent,
            oauth_private_key: oauth && !byConsent,
            oauth_secret_ends: oauth && grant.value !== "jwt_bearer",
            oauth_scope: oauth,
            token_state: oauth,
        };
        Object.entries(shown).forEach(([name, applies]) => {
            const row = form.querySelector(`.field-${name}`);
            if (row) {
                row.hidden = !applies;
            }
        });
    }

    if (authentication && grant) {
        authentication.addEventListener("change", showWhatApplies);
        grant.addEventListener("change", showWhatApplies);
        showWhatApplies();
    }

    const presets = form.querySelector(".email-presets");
    if (presets) {
        presets.hidden = false;
        presets.addEventListener("click", (event) => {
            const button = event.target.closest("button[data-port]");
            if (!button) {
                return;
            }
            if (button.dataset.host) {
                form.elements.host.value = button.dataset.host;
            }
            form.elements.port.value = button.dataset.port;
            form.elements.use_tls.checked = button.dataset.encryption === "tls";
            form.elements.use_ssl.checked = button.dataset.encryption === "ssl";
            if (authentication && grant) {
                authentication.value = button.dataset.authentication;
                if (button.dataset.endpoint) {
                    grant.value = button.dataset.grant;
                    form.elements.oauth_endpoint.value = button.dataset.endpoint;
                    form.elements.oauth_authorization_endpoint.value = "";
                    form.elements.oauth_scope.value = button.dataset.scope;
                }
                showWhatApplies();
            }
            document.getElementById("email-preset-hint").textContent = button.dataset.hint;
        });
    }

    const result = document.getElementById("email-connection-test-result");
    const buttons = [...form.querySelectorAll("button[data-email-connection-test]")];
    let running = false;

    async function test(button) {
        const data = new FormData(form);
        if (button.name) {
            data.append(button.name, button.value);
        }
        running = true;
        buttons.forEach((other) => other.setAttribute("aria-disabled", "true"));
        result.textContent = button.dataset.waiting;
        try {
            const response = await fetch(button.formAction, {
                method: "POST",
                body: data,
                headers: {"X-Requested-With": "fetch"},
                credentials: "same-origin",
            });
            if (!response.ok || response.redirected) { // to the login, for instance
                throw new Error(response.status);
            }
            result.innerHTML = await response.text(); // our own server's rendering, escaped there
        } catch {
            result.textContent = button.dataset.broken;
        } finally {
            running = false;
            buttons.forEach((other) => other.removeAttribute("aria-disabled"));
        }
    }

    buttons.forEach((button) => {
        button.type = "button"; // the Enter key saves, it does not test
        button.addEventListener("click", (event) => {
            event.preventDefault();
            if (!running) {
                test(button);
            }
        });
    });
});
