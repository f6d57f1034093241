//! Who may see the pages, and who may do something on them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use cookie::Cookie;
use sha2::{Digest, Sha256};

/// The cookie of somebody who has logged in.
pub(crate) const COOKIE: &str = "plimsoll";
/// In which a reverse proxy proves that it is the one.
const PROXY: &str = "x-plimsoll-proxy";
/// How long a login holds.
const SESSION: Duration = Duration::from_secs(12 * 3_600);
/// Logins kept at a time; the oldest goes first.
const SESSIONS: usize = 200;

/// Who may come in.
#[derive(Default)]
pub struct Login {
    people: Vec<Person>,
    proxy: Option<(String, [u8; 32])>,
    /// Signs the tokens of forms; made anew at each start.
    key: [u8; 32],
    sessions: Mutex<HashMap<[u8; 32], (String, Instant)>>,
}

struct Person {
    name: String,
    operator: bool,
    token: Option<[u8; 32]>,
}

/// Somebody who is in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Guest {
    pub(crate) name: String,
    /// May answer and sign.
    pub(crate) operator: bool,
    /// How they came in.
    pub(crate) way: String,
    /// What their forms must bring back.
    pub(crate) csrf: String,
}

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Bytes that nobody can guess.
fn random() -> Result<[u8; 32], getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

impl Login {
    /// Nobody may come in yet.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new() -> Result<Login, getrandom::Error> {
        Ok(Login { key: random()?, ..Login::default() })
    }

    /// Lets somebody in: with a token, or `None` when a proxy names them.
    #[must_use]
    pub fn person(mut self, name: &str, operator: bool, token: Option<&str>) -> Login {
        let token = token.map(|token| digest(&[token.as_bytes()]));
        self.people.push(Person { name: name.to_owned(), operator, token });
        self
    }

    /// Believes a reverse proxy's header, from whoever knows the secret.
    #[must_use]
    pub fn proxy(mut self, header: &str, secret: &str) -> Login {
        self.proxy = Some((header.to_owned(), digest(&[secret.as_bytes()])));
        self
    }

    /// Whether somebody can log in with a token.
    pub(crate) fn has_tokens(&self) -> bool {
        self.people.iter().any(|person| person.token.is_some())
    }

    /// Who sends this request, if they may see anything.
    pub(crate) fn guest(&self, headers: &HeaderMap) -> Option<Guest> {
        self.by_proxy(headers).or_else(|| self.by_cookie(headers))
    }

    fn by_proxy(&self, headers: &HeaderMap) -> Option<Guest> {
        let (header, secret) = self.proxy.as_ref()?;
        let given = headers.get(PROXY)?.as_bytes();
        if digest(&[given]) != *secret {
            return None;
        }
        let name = headers.get(header)?.to_str().ok()?.trim();
        let plain = !name.is_empty() && name.len() <= 100 && !name.chars().any(char::is_control);
        plain.then(|| self.seated(name, "through the proxy", b"proxy"))
    }

    fn by_cookie(&self, headers: &HeaderMap) -> Option<Guest> {
        let id = session_id(headers)?;
        let name = {
            let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            let (name, since) = sessions.get(&digest(&[&id]))?;
            if since.elapsed() > SESSION {
                return None;
            }
            name.clone()
        };
        Some(self.seated(&name, "with a token", &id))
    }

    fn seated(&self, name: &str, way: &str, session: &[u8]) -> Guest {
        let operator = self.people.iter().any(|person| person.name == name && person.operator);
        let csrf = hex::encode(digest(&[&self.key, name.as_bytes(), session]));
        Guest { name: name.to_owned(), operator, way: format!("on the page, {way}"), csrf }
    }

    /// Opens a session for whoever has this token: the cookie's value.
    pub(crate) fn open(&self, token: &str) -> Option<String> {
        let wanted = digest(&[token.trim().as_bytes()]);
        let person = self.people.iter().find(|person| person.token == Some(wanted))?;
        let id = random().ok()?;
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, (_, since)| since.elapsed() <= SESSION);
        if sessions.len() >= SESSIONS {
            let oldest = sessions.iter().min_by_key(|(_, (_, since))| *since).map(|(id, _)| *id);
            oldest.and_then(|id| sessions.remove(&id));
        }
        sessions.insert(digest(&[&id]), (person.name.clone(), Instant::now()));
        Some(hex::encode(id))
    }

    /// Ends the session of this request.
    pub(crate) fn close(&self, headers: &HeaderMap) {
        if let Some(id) = session_id(headers) {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest(&[&id]));
        }
    }
}

fn session_id(headers: &HeaderMap) -> Option<Vec<u8>> {
    let texts = headers.get_all("cookie").iter().filter_map(|value| value.to_str().ok());
    let mut cookies = texts.flat_map(Cookie::split_parse).flatten();
    hex::decode(cookies.find(|cookie| cookie.name() == COOKIE)?.value()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn login() -> Login {
        let login = Login::new().unwrap().person("asha", true, Some("t0ken")).person("ravi", false, None);
        login.proxy("x-remote-user", "pr0xy")
    }

    #[test]
    fn only_a_known_token_opens_a_session_and_it_ends() {
        let login = login();
        assert_eq!(login.open("wrong"), None);
        assert_eq!(login.open(""), None);
        let id = login.open("t0ken").unwrap();
        let cookie = headers(&[("cookie", &format!("a=b; plimsoll={id}"))]);
        let guest = login.guest(&cookie).unwrap();
        assert_eq!((guest.name.as_str(), guest.operator), ("asha", true));
        login.close(&cookie);
        assert_eq!(login.guest(&cookie), None);
        assert_eq!(login.guest(&headers(&[("cookie", "plimsoll=00")])), None);
    }

    #[test]
    fn a_header_is_believed_from_the_proxy_alone() {
        let login = login();
        assert_eq!(login.guest(&headers(&[("x-remote-user", "asha")])), None);
        let forged = headers(&[("x-remote-user", "asha"), ("x-plimsoll-proxy", "guess")]);
        assert_eq!(login.guest(&forged), None);
        let good = headers(&[("x-remote-user", "ravi"), ("x-plimsoll-proxy", "pr0xy")]);
        assert!(!login.guest(&good).unwrap().operator);
        let unknown = headers(&[("x-remote-user", "meena"), ("x-plimsoll-proxy", "pr0xy")]);
        assert!(!login.guest(&unknown).unwrap().operator, "whom nobody named may only look");
    }

    #[test]
    fn each_session_has_form_tokens_of_its_own() {
        let login = login();
        let csrf = || {
            let id = login.open("t0ken").unwrap();
            login.guest(&headers(&[("cookie", &format!("plimsoll={id}"))])).unwrap().csrf
        };
        assert_ne!(csrf(), csrf());
    }
}
