//! Where the code comes from: a URL, another machine, or a folder of this one.

use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

use super::git::Call;

/// A git credential helper that answers from the environment, where other users cannot read it.
const HELPER: &str = r#"!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$PLIMSOLL_GIT_USER" "$PLIMSOLL_GIT_PASSWORD"; }; f"#;

/// Where the code comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The URL or absolute path, without credentials.
    pub(crate) url: String,
    /// The folder, when it is on this machine.
    pub(crate) local: Option<PathBuf>,
    login: Option<(String, String)>,
}

impl Origin {
    /// Reads `[source].git`: a URL, `user@host:path`, or a path, relative to `root`.
    pub(crate) fn parse(git: &str, root: &Path) -> Self {
        let remote = |url: &str, login| Origin { url: url.to_owned(), local: None, login };
        let on_disk = |path: PathBuf| Origin {
            url: path.to_string_lossy().into_owned(),
            local: Some(path),
            login: None,
        };
        if let Some((scheme, rest)) = git.split_once("://") {
            if scheme == "file" {
                return on_disk(PathBuf::from(rest));
            }
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            if let (Some((user, host)), true) = (authority.rsplit_once('@'), scheme.starts_with("http")) {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                let plain = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
                return remote(&format!("{scheme}://{host}{path}"), Some((plain(name), plain(password))));
            }
            return remote(git, None);
        }
        // As git reads it: a colon before the first slash means another machine.
        match git.split_once(':') {
            Some((host, _)) if !host.contains('/') => remote(git, None),
            _ => on_disk(root.join(git)),
        }
    }

    /// Lets a fetch from the remote `plimsoll` go here. Through the environment: credentials reach neither the
    /// mirror's configuration nor an argument list.
    pub(crate) fn name_in(&self, mut call: Call) -> Call {
        let mut settings = vec![("remote.plimsoll.url", self.url.as_str())];
        if self.local.is_some() {
            // git clears our settings for the other side of a local fetch, which then refuses a repository that
            // belongs to another user. The administrator named this one.
            settings.push(("remote.plimsoll.uploadpack", "git -c safe.directory=* upload-pack"));
        }
        if let Some((user, password)) = &self.login {
            settings.push(("credential.helper", ""));
            settings.push(("credential.helper", HELPER));
            call = call.env("PLIMSOLL_GIT_USER", user).env("PLIMSOLL_GIT_PASSWORD", password);
        }
        call = call.env("GIT_CONFIG_COUNT", &settings.len().to_string());
        for (n, (key, value)) in settings.iter().enumerate() {
            call = call.env(&format!("GIT_CONFIG_KEY_{n}"), key).env(&format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_url_another_machine_or_a_path() {
        let parse = |git: &str| Origin::parse(git, Path::new("/srv/app"));
        assert_eq!(parse("git@host:shop.git").local, None);
        assert_eq!(parse("ssh://git@host/shop.git").url, "ssh://git@host/shop.git");
        assert_eq!(parse("/srv/git/a:b.git").local, Some(PathBuf::from("/srv/git/a:b.git")));
        assert_eq!(parse("../a.git").url, "/srv/app/../a.git");
        assert_eq!(parse("file:///srv/x").local, Some(PathBuf::from("/srv/x")));
        let token = parse("https://t%40ken@host:8443/shop.git");
        assert_eq!(token.url, "https://host:8443/shop.git");
        assert_eq!(token.login, Some(("t@ken".to_owned(), String::new())));
    }
}
