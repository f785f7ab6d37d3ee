"use strict";

// Refreshes the dashboard: the first section often, all numbers less often. It stops in a hidden tab and while paused.
// Without this script the page stays as it was loaded.
document.addEventListener("DOMContentLoaded", () => {
    const control = document.querySelector(".email-refresh");
    if (!control) {
        return;
    }
    const button = control.querySelector("button");
    const state = control.querySelector("span");
    const announced = document.getElementById("email-announced");
    const seconds = {part: Number(control.dataset.every), all: Number(control.dataset.all)};
    const parts = ["email-top", "email-current"];
    const all = [...parts, "email-counted", "email-reasons"];
    let paused = remembered() === "yes";
    let timer = null;
    let running = false;
    let countedAt = Date.now();

    // A browser may refuse to store anything. The pause then ends with the page.
    function remembered() {
        try {
            return localStorage.getItem("email-dashboard-paused");
        } catch {
            return null;
        }
    }

    function remember(value) {
        try {
            localStorage.setItem("email-dashboard-paused", value);
        } catch {
            // It is only forgotten.
        }
    }

    function problems() {
        return document.getElementById("email-current").dataset.problems.trim();
    }

    // Returns a way to find the focused element again after its part was replaced.
    function focused(part) {
        const active = document.activeElement;
        if (!part.contains(active)) {
            return null;
        }
        const same = [...part.querySelectorAll(active.tagName)];
        return {tag: active.tagName, place: same.indexOf(active), left: active.scrollLeft};
    }

    function replace(part, fresh) {
        const focus = focused(part);
        const open = new Set([...part.querySelectorAll("details[open]")].map((each) => each.id));
        const scrolled = [...part.querySelectorAll(".email-wide")].map((each) => each.scrollLeft);
        part.replaceWith(fresh);
        fresh.querySelectorAll("details").forEach((each) => {
            each.open = open.has(each.id);
        });
        fresh.querySelectorAll(".email-wide").forEach((each, place) => {
            each.scrollLeft = scrolled[place] || 0;
        });
        if (focus) {
            const again = fresh.querySelectorAll(focus.tag)[focus.place];
            if (again) {
                again.focus({preventScroll: true});
            }
        }
    }

    async function refresh() {
        const everything = Date.now() - countedAt >= seconds.all * 1000;
        const response = await fetch(window.location.href, {
            headers: everything ? {} : {"X-Dashboard-Part": "now"},
            credentials: "same-origin",
            cache: "no-store",
        });
        if (response.redirected || response.status === 403) { // to the login
            return "out";
        }
        if (!response.ok) {
            throw new Error(response.status);
        }
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        if (paused || document.hidden) {
            return "on";
        }
        const before = problems();
        (everything ? all : parts).forEach((id) => {
            const fresh = page.getElementById(id);
            const part = document.getElementById(id);
            // A button that is about to be pressed must not be replaced.
            if (fresh && part && !(id === "email-top" && part.contains(document.activeElement))) {
                replace(part, fresh);
            }
        });
        if (everything) {
            countedAt = Date.now();
        }
        if (problems() !== before) {
            announced.textContent = problems() || announced.dataset.none;
        }
        return "on";
    }

    async function turn() {
        timer = null;
        if (running) {
            return;
        }
        running = true;
        let outcome = "failed";
        try {
            outcome = await refresh();
        } catch {
            // The next turn tries again.
        } finally {
            running = false;
        }
        if (!paused) {
            state.textContent = state.dataset[outcome];
        }
        if (outcome !== "out") {
            wait();
        }
    }

    function wait(time = seconds.part * 1000) {
        clearTimeout(timer);
        timer = paused || document.hidden ? null : setTimeout(turn, time);
    }

    function show() {
        button.textContent = paused ? button.dataset.go : button.dataset.stop;
        state.textContent = paused ? state.dataset.off : state.dataset.on;
    }

    button.addEventListener("click", () => {
        paused = !paused;
        remember(paused ? "yes" : "no");
        show();
        wait(0);
    });
    document.addEventListener("visibilitychange", () => wait(0));
    control.hidden = false;
    show();
    wait();
});
