// What a shop's page loads: it opens the checkout in a frame of the simulator's own and tells the page how it ended.
(function () {
  "use strict";
  var here = new URL(document.currentScript.src).origin;

  function Razorpay(options) {
    if (!options || !options.key) { throw new Error("key is missing"); }
    if (!options.order_id && !options.amount) { throw new Error("order_id or amount is missing"); }
    this.options = options;
    this.listeners = {};
    this.frame = null;
    this.receive = this.receive.bind(this);
    this.pressed = this.pressed.bind(this);
  }

  Razorpay.prototype.on = function (event, listener) {
    (this.listeners[event] = this.listeners[event] || []).push(listener);
  };

  Razorpay.prototype.open = function () {
    if (this.frame) { return; }
    var options = this.options, prefill = options.prefill || {};
    var query = new URLSearchParams({
      key: options.key,
      order_id: options.order_id || "",
      parent: location.origin,
      name: options.name || "",
      description: options.description || "",
      email: prefill.email || "",
      contact: prefill.contact || "",
      vpa: prefill.vpa || "",
      retry: options.retry === false || (options.retry && options.retry.enabled === false) ? "" : "yes",
      callback_url: options.callback_url || "",
      redirect: options.redirect || (options.callback_url && !options.handler) ? "yes" : ""
    });
    var frame = document.createElement("iframe");
    frame.title = "Payment";
    frame.name = "razorpay-checkout";
    frame.src = here + "/v1/checkout/page?" + query;
    // Set one by one: a style attribute would need a laxer policy of the page.
    frame.style.position = "fixed";
    frame.style.inset = "0";
    frame.style.width = "100%";
    frame.style.height = "100%";
    frame.style.border = "0";
    frame.style.zIndex = "2147483647";
    document.body.appendChild(frame);
    this.frame = frame;
    addEventListener("message", this.receive);
    addEventListener("keydown", this.pressed);
    if (options.timeout) { this.timer = setTimeout(this.dismiss.bind(this), options.timeout * 1000); }
  };

  Razorpay.prototype.close = function () {
    if (!this.frame) { return; }
    clearTimeout(this.timer);
    removeEventListener("message", this.receive);
    removeEventListener("keydown", this.pressed);
    this.frame.remove();
    this.frame = null;
  };

  Razorpay.prototype.dismiss = function () {
    var modal = this.options.modal || {};
    this.close();
    if (modal.ondismiss) { modal.ondismiss(); }
  };

  Razorpay.prototype.pressed = function (event) {
    var modal = this.options.modal || {};
    if (event.key === "Escape" && modal.escape !== false) { this.dismiss(); }
  };

  Razorpay.prototype.receive = function (event) {
    if (!this.frame || event.origin !== here || event.source !== this.frame.contentWindow) { return; }
    var told = event.data || {};
    if (told.what === "paid") {
      this.close();
      if (this.options.handler) { this.options.handler(told.response); }
    } else if (told.what === "failed") {
      (this.listeners["payment.failed"] || []).forEach(function (listener) { listener({ error: told.error }); });
    } else if (told.what === "closed") {
      this.dismiss();
    }
  };

  window.Razorpay = Razorpay;
})();
