// The page of a rotation that goes on: at every event from the server, the parts of the page that changed are replaced.
// A page without script has a link that reloads it.
"use strict";
{
  const RETRY_MS = 3000;

  // Trusted Types forbid to make elements of text, so the browser reads the page itself.
  const read = () =>
    new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("GET", location.pathname);
      request.responseType = "document";
      request.onload = () => (request.status < 500 ? resolve(request.response) : reject());
      request.onerror = reject;
      request.send();
    });

  const refresh = async () => {
    const fresh = await read();
    for (const old of document.querySelectorAll("[data-live]")) {
      const part = fresh?.getElementById(old.id);
      if (!part) {
        location.reload(); // the session has ended: the server leads to the sign-in form
        return;
      }
      if (!old.isEqualNode(part)) {
        old.replaceWith(part);
      }
    }
  };

  // The last event has no successor: a page that could not be read then would show an old state for ever.
  const refreshed = () =>
    refresh().catch(() => new Promise((resolve) => setTimeout(resolve, RETRY_MS)).then(refreshed));

  let last = Promise.resolve();
  const follow = () => {
    const events = new EventSource(`${location.pathname}/events`);
    events.addEventListener("progress", (event) => {
      if (JSON.parse(event.data).over) {
        events.close();
      }
      last = last.then(refreshed);
    });
    events.onerror = () => {
      // After a refusal, such as too many open pages, the browser does not ask again by itself.
      if (events.readyState === EventSource.CLOSED) {
        last = last.then(refreshed);
        setTimeout(follow, RETRY_MS);
      }
    };
    addEventListener("pagehide", () => events.close());
  };
  follow();
}
