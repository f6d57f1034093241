// Opens the checkout and brings its answer to the shop. All it knows is in the button's data.
(function () {
  "use strict";
  var button = document.getElementById("pay");
  if (!button) { return; }
  if (!window.Razorpay) {
    document.getElementById("blocked").hidden = false;
    button.disabled = true;
    return;
  }
  var told = button.dataset;

  function pay() {
    var failed = false, paid = false;
    var checkout = new window.Razorpay({
      key: told.key,
      order_id: told.order,
      amount: told.amount,
      currency: "INR",
      name: told.shop,
      description: told.description,
      config: told.language ? { display: { language: told.language } } : undefined,
      prefill: { name: told.name, email: told.email, contact: told.contact },
      timeout: Number(told.seconds),
      retry: { enabled: true, max_count: 4 },
      handler: function (answer) {
        paid = true;
        var form = document.getElementById("proof");
        ["razorpay_order_id", "razorpay_payment_id", "razorpay_signature"].forEach(function (name) {
          form.elements[name].value = answer[name] || "";
        });
        form.submit();
      },
      modal: {
        ondismiss: function () {
          if (!paid) { location.replace(told.page + "?after=" + (failed ? "failed" : "closed")); }
        }
      }
    });
    checkout.on("payment.failed", function () { failed = true; });
    checkout.open();
  }

  button.addEventListener("click", pay);
  if (told.opens) { pay(); }
})();
