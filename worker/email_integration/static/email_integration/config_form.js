"use strict";

// The form of a configuration: presets, the fields of the chosen way to log in, and the test of what is typed. Without
// this script there are no presets, all fields are shown, and the test opens a page of its own.
document.addEventListener("DOMContentLoaded", () => {
    const form = document.querySelector("#smtpconfig_form, #historicalsmtpconfig_form"); // the latter to revert
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

    // A port is suggested as long as it is a usual one and the user has not typed it.
    const encryption = form.elements.encryption;
    const port = form.elements.port;
    const usual = {none: "25", starttls: "587", tls: "465"};
    let isTyped = false;
    if (encryption && port) {
        port.addEventListener("input", () => {
            isTyped = true;
        });
        encryption.addEventListener("change", () => {
            if (!isTyped && (port.value === "" || Object.values(usual).includes(port.value))) {
                port.value = usual[encryption.value];
            }
        });
    }

    const presets = form.querySelector(".email-presets");
    if (presets) {
        const choices = [...presets.querySelectorAll("button[data-port]")];

        // A preset without a value clears what another preset has filled in, and keeps what the user typed.
        function fill(name, key, chosen) {
            const field = form.elements[name];
            const isOurs = choices.some((other) => other.dataset[key] && other.dataset[key] === field.value);
            if (chosen.dataset[key] || isOurs) {
                field.value = chosen.dataset[key];
            }
        }

        presets.hidden = false;
        presets.addEventListener("click", (event) => {
            const button = event.target.closest("button[data-port]");
            if (!button) {
                return;
            }
            fill("host", "host", button);
            port.value = button.dataset.port;
            isTyped = false;
            encryption.value = button.dataset.encryption;
            if (authentication && grant) {
                authentication.value = button.dataset.authentication;
                fill("oauth_endpoint", "endpoint", button);
                fill("oauth_scope", "scope", button);
                if (button.dataset.endpoint) {
                    grant.value = button.dataset.grant;
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

    const address = form.elements.test_address;
    if (address) {
        address.addEventListener("keydown", (event) => {
            if (event.key === "Enter") { // the Enter key of this field sends the test mail, it does not save
                event.preventDefault();
                buttons.find((button) => button.name === "send").click();
            }
        });
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
