// Results that were not read yet are being read meanwhile: the page is asked for again until it has all.
// Where none was read since the last time, their share does not answer: that is asked for less often.
const [SOON_MS, LATER_MS] = [1500, 20000];
const unread = document.querySelector("[data-unread]")?.dataset.unread;
const before = sessionStorage.getItem("unread");
if (unread) {
  sessionStorage.setItem("unread", unread);
  setTimeout(() => location.reload(), unread === before ? LATER_MS : SOON_MS);
} else sessionStorage.removeItem("unread");
