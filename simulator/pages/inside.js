// Runs in the simulator's own frame: tells the shop's page what happened, and only that page.
(function () {
  "use strict";
  var told = document.body.dataset, parentOrigin = told.parent;
  function tell(message) { if (parentOrigin) { parent.postMessage(message, parentOrigin); } }
  if (told.paid) { tell({ what: "paid", response: JSON.parse(told.paid) }); }
  if (told.failed) { tell({ what: "failed", error: JSON.parse(told.failed) }); }
  document.querySelectorAll("[data-close]").forEach(function (button) {
    button.addEventListener("click", function () { tell({ what: "closed" }); });
  });
  addEventListener("keydown", function (event) { if (event.key === "Escape") { tell({ what: "closed" }); } });
  var onward = document.querySelector("form[data-onward]");
  if (onward) { onward.submit(); }
})();
