// HTML alone cannot copy a revealed secret, nor hide it again after a while, nor read the part of a link behind its "#",
// nor show times in the browser's own zone.
"use strict";
{
  const secret = document.getElementById("secret");
  const seconds = Number(secret?.dataset.hideAfter);
  const news = document.getElementById("secret-news");
  const copy = document.getElementById("copy");
  if (secret && copy) {
    if (navigator.clipboard) {
      copy.hidden = false;
      copy.addEventListener("click", async () => {
        try {
          await navigator.clipboard.writeText(secret.textContent);
          news.textContent = news.dataset.copied;
        } catch {
          news.textContent = news.dataset.notCopied;
        }
      });
    }
  }
  if (seconds) {
    const hide = () => {
      secret.textContent = "•".repeat(8);
      copy.hidden = true;
      news.textContent = news.dataset.hidden;
    };
    news.textContent = news.dataset.hides;
    setTimeout(hide, seconds * 1000);
    // A page that comes back from the browser's cache must not bring the secret back.
    addEventListener("pagehide", hide);
  }
}
{
  const token = document.getElementById("setup-token") ?? document.getElementById("claim-token");
  const take = () => {
    // Not "#content", to which the first link of a page leads.
    if (token && /^#kh[a-z]_/.test(location.hash)) {
      token.value = location.hash.slice(1);
      // Neither the address bar nor the history keeps it.
      history.replaceState(null, "", location.pathname);
      const empty = [...token.form.elements].find((each) => each.required && each.value === "");
      empty?.focus();
    }
  };
  take();
  // A second link that is opened in this tab loads no page.
  addEventListener("hashchange", take);
}
{
  // The page has these in UTC, where the account leaves the zone to the browser.
  const written = new Intl.DateTimeFormat(document.documentElement.lang === "de" ? "de" : "en-GB", {
    day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short",
  });
  for (const time of document.querySelectorAll("time[data-local]")) {
    time.title = written.format(new Date(time.dateTime));
    if (time.dataset.local === "text") {
      time.textContent = time.title;
    }
  }
  const zones = document.getElementById("time-zones");
  for (const name of zones ? (Intl.supportedValuesOf?.("timeZone") ?? []) : []) {
    zones.append(new Option(name, name));
  }
}
