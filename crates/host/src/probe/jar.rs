//! The cookies of one visitor.

use std::time::{SystemTime, UNIX_EPOCH};

use cookie::Cookie;

use super::http::Answer;

/// Cookies as a browser would keep them for one host. `Secure` and `__Host-` cookies are sent back as well: the
/// request stands for one that came through the front door over https.
#[derive(Default)]
pub(crate) struct Jar {
    cookies: Vec<Kept>,
}

struct Kept {
    name: String,
    value: String,
    path: String,
}

impl Jar {
    /// Takes the cookies that an answer to `path` sets or removes.
    pub(crate) fn take(&mut self, answer: &Answer, path: &str) {
        for (_, header) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
            let Ok(cookie) = Cookie::parse(header.as_str()) else { continue };
            let path = match cookie.path() {
                Some(path) if path.starts_with('/') => path.to_owned(),
                _ => folder_of(path).to_owned(),
            };
            self.cookies.retain(|kept| kept.name != cookie.name() || kept.path != path);
            if !is_over(&cookie) {
                let (name, value) = (cookie.name().to_owned(), cookie.value().to_owned());
                self.cookies.push(Kept { name, value, path });
            }
        }
    }

    /// The `Cookie` header for a request to `path`; the most specific path first.
    pub(crate) fn header(&self, path: &str) -> Option<String> {
        let path = path.split('?').next().unwrap_or(path);
        let mut fitting: Vec<&Kept> = self.cookies.iter().filter(|kept| covers(&kept.path, path)).collect();
        fitting.sort_by_key(|kept| std::cmp::Reverse(kept.path.len()));
        let pairs: Vec<String> = fitting.iter().map(|kept| format!("{}={}", kept.name, kept.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// All values, to be kept out of messages.
    pub(crate) fn values(&self) -> impl Iterator<Item = &str> {
        self.cookies.iter().map(|kept| kept.value.as_str())
    }
}

fn is_over(cookie: &Cookie<'_>) -> bool {
    // Max-Age goes before Expires.
    if let Some(age) = cookie.max_age() {
        return !age.is_positive();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    cookie
        .expires_datetime()
        .is_some_and(|end| end.unix_timestamp() <= i64::try_from(now).unwrap_or(i64::MAX))
}

/// The default path of a cookie: the folder of the request.
fn folder_of(path: &str) -> &str {
    let path = path.split('?').next().unwrap_or(path);
    match path.rfind('/') {
        Some(at) if at > 0 => &path[..at],
        _ => "/",
    }
}

fn covers(cookie: &str, path: &str) -> bool {
    path.strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || cookie.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(jar: &mut Jar, path: &str, cookies: &[&str]) {
        let headers = cookies.iter().map(|text| ("set-cookie".to_owned(), (*text).to_owned())).collect();
        jar.take(&Answer { headers, ..Answer::default() }, path);
    }

    #[test]
    fn secure_cookies_come_back_and_old_ones_go() {
        let mut jar = Jar::default();
        set(
            &mut jar,
            "/login",
            &["__Host-session=abc==; Path=/; Secure; HttpOnly", "seen=1; Max-Age=60", "broken"],
        );
        assert_eq!(jar.header("/cart?x=/y").unwrap(), "__Host-session=abc==; seen=1");
        set(&mut jar, "/", &["seen=2; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60"]);
        assert_eq!(jar.header("/").unwrap(), "__Host-session=abc==; seen=2");
        set(
            &mut jar,
            "/",
            &["seen=; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "__Host-session=; Path=/; Max-Age=0"],
        );
        assert_eq!(jar.header("/"), None);
    }

    #[test]
    fn a_cookie_goes_only_where_its_path_says() {
        let mut jar = Jar::default();
        set(&mut jar, "/admin/login", &["a=1", "b=2; Path=/admin/deep", "c=3; Path=/"]);
        assert_eq!(jar.header("/admin/deep/x").unwrap(), "b=2; a=1; c=3");
        assert_eq!(jar.header("/admin").unwrap(), "a=1; c=3");
        assert_eq!(jar.header("/administrator").unwrap(), "c=3");
    }
}
