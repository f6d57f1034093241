// Fetches the page anew when the records change, and puts in what is different. Without it the pages work the same.
(function () {
  'use strict';
  if (!window.EventSource || !document.querySelector('[data-live]')) return;
  var busy = false, again = false;
  function refresh(selector) {
    if (document.hidden) return;
    if (busy) { again = true; return; }
    busy = true;
    fetch(location.href, { credentials: 'same-origin' })
      .then(function (answer) { return answer.ok && !answer.redirected ? answer.text() : null; })
      .then(function (text) {
        if (!text) return;
        var fresh = new DOMParser().parseFromString(text, 'text/html');
        document.querySelectorAll(selector).forEach(function (old) {
          var now = fresh.getElementById(old.id);
          // What somebody is writing in stays.
          var writing = old.contains(document.activeElement) || Array.prototype.some.call(
            old.querySelectorAll('textarea'), function (area) { return area.value; });
          if (now && !writing && now.innerHTML !== old.innerHTML) old.innerHTML = now.innerHTML;
        });
      })
      .catch(function () {})
      .then(function () {
        busy = false;
        if (again) { again = false; refresh('[data-live]'); }
      });
  }
  var source = new EventSource('/live');
  source.addEventListener('change', function () { refresh('[data-live]'); });
  source.addEventListener('tick', function () { refresh('[data-tick]'); });
  source.onopen = function () { document.documentElement.dataset.online = 'yes'; };
  source.onerror = function () { document.documentElement.dataset.online = 'no'; };
  document.addEventListener('visibilitychange', function () { refresh('[data-live]'); });
})();
