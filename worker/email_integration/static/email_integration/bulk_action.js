"use strict";

// The page of an action on many mails: carries out one step after the other. Without this script, or after an error,
// the button carries out one step.
document.addEventListener("DOMContentLoaded", () => {
    const form = document.querySelector("[data-email-step]");
    const running = document.querySelector("[data-email-running]");
    const broken = document.querySelector("[data-email-broken]");

    async function step() {
        const response = await fetch(window.location.href, { method: "POST", body: new FormData(form) });
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        const progress = page.getElementById("email-progress");
        if (!response.ok || !progress) {
            throw new Error(response.statusText);
        }
        document.getElementById("email-progress").replaceChildren(...progress.childNodes);
        return "ended" in progress.dataset;
    }

    async function run() {
        form.hidden = true;
        running.hidden = false;
        try {
            while (!(await step()));
            window.location.replace(window.location.href);
        } catch {
            form.hidden = false;
            running.hidden = true;
            broken.hidden = false;
        }
    }

    run();
});
