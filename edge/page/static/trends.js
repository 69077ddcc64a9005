// Results that were not read yet are being read meanwhile: the page is asked for again until it has all.
if (document.querySelector("[data-unread]")) setTimeout(() => location.reload(), 1500);
