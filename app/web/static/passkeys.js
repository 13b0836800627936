// Only JavaScript reaches a browser's passkeys. A form asks Keyhall for options, the browser answers them, and the form is
// sent with that answer: the rest of the page works as it does without this file.
"use strict";
{
  const native = globalThis.PublicKeyCredential;
  const able = Boolean(
    native?.parseCreationOptionsFromJSON && native.parseRequestOptionsFromJSON && native.prototype.toJSON,
  );
  // The page has the sentences, in the language of its reader: that for NotAllowedError is data-not-allowed-error.
  const said = (problem, error) => {
    const known = problem.dataset[error.name.charAt(0).toLowerCase() + error.name.slice(1)];
    return known ?? (error.code && error.message ? `${error.message}.` : problem.dataset.noAnswer);
  };
  // A challenge is good for five minutes; one that waits in the background is replaced before.
  const RENEW_AFTER = 4 * 60 * 1000;
  let waiting = null;

  const ask = async (form) => {
    const response = await fetch(form.dataset.options, { method: "POST", headers: { Accept: "application/json" } });
    const content = await response.json();
    if (!response.ok) {
      throw Object.assign(new Error(content.detail), { code: content.code });
    }
    return content;
  };

  const answer = async (form, more) => {
    const options = await ask(form);
    const found =
      form.dataset.passkey === "create"
        ? await navigator.credentials.create({ publicKey: native.parseCreationOptionsFromJSON(options), ...more })
        : await navigator.credentials.get({ publicKey: native.parseRequestOptionsFromJSON(options), ...more });
    return JSON.stringify(found.toJSON());
  };

  const send = (form, text) => {
    form.elements.credential.value = text;
    form.submit();
  };

  const run = async (form) => {
    const problem = form.querySelector("[data-problem]");
    const button = form.querySelector("button");
    waiting?.abort();
    problem.hidden = true;
    button.disabled = true;
    try {
      send(form, await answer(form, {}));
    } catch (error) {
      button.disabled = false;
      if (error.code === "reauthentication_required" && form.dataset.confirm) {
        location.assign(form.dataset.confirm);
        return;
      }
      problem.textContent = said(problem, error);
      problem.hidden = false;
    }
  };

  // The browser offers passkeys in the field for the name, for as long as the page is open.
  const offer = async (form) => {
    if (!(await native.isConditionalMediationAvailable?.())) {
      return;
    }
    for (;;) {
      const abort = new AbortController();
      const renew = setTimeout(() => abort.abort("renew"), RENEW_AFTER);
      waiting = abort;
      try {
        send(form, await answer(form, { mediation: "conditional", signal: abort.signal }));
        return;
      } catch {
        if (abort.signal.reason !== "renew") {
          return;
        }
      } finally {
        clearTimeout(renew);
      }
    }
  };

  for (const form of able ? document.querySelectorAll("form[data-passkey]") : []) {
    form.hidden = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      run(form);
    });
    if ("offer" in form.dataset) {
      offer(form);
    }
  }
  for (const hint of able ? document.querySelectorAll("[data-without-passkeys]") : []) {
    hint.hidden = true;
  }
  // A page that comes back from the browser's cache must be usable again.
  addEventListener("pageshow", () => {
    for (const button of document.querySelectorAll("form[data-passkey] button")) {
      button.disabled = false;
    }
  });
}
