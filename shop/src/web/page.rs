//! Templates and static files: read once, from the folder beside the program.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};
use sha2::{Digest, Sha256};

use super::Shop;
use super::error::PageError;
use crate::db::images;
use crate::money::Rupees;

/// Templates or static files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A template is not well formed.
    #[error("template {name} is not well formed")]
    Template {
        /// Its name below `templates/`.
        name: String,
        /// What is wrong, and where.
        source: minijinja::Error,
    },
}

#[derive(Debug)]
struct Asset {
    bytes: Vec<u8>,
    kind: &'static str,
    etag: String,
}

/// Everything that pages are made of.
#[derive(Debug)]
pub(crate) struct Pages {
    templates: Environment<'static>,
    assets: HashMap<String, Asset>,
}

impl Pages {
    /// Reads `templates/` and `static/` below `home`.
    pub(crate) fn read(home: &Path) -> Result<Self, PagesError> {
        let mut templates = Environment::new();
        // Everything that a page prints is escaped.
        templates.set_auto_escape_callback(|name| {
            // Mails are plain text.
            if name.ends_with(".txt") { AutoEscape::None } else { AutoEscape::Html }
        });
        // A misspelt name is an error to be seen by the tests and not an empty place on a page.
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        templates.add_global("test_shop", crate::settings::test_shop());
        templates.add_filter("rupees", |paise: i64| Rupees(paise).to_string());
        templates.add_filter("in_india", in_india);
        templates.add_filter("day", day);
        templates.add_filter("hour", hour);
        templates.add_filter("query", |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        });

        let mut assets = HashMap::new();
        for (name, bytes) in files_below(&home.join("static"))? {
            let etag = format!("\"{}\"", &hex::encode(Sha256::digest(&bytes))[..16]);
            let kind = kind_of(&name);
            assets.insert(name, Asset { bytes, kind, etag });
        }
        // The content's hash in the address: browsers keep it for a year and still see every change. A file's own
        // name and hexadecimal digits: nothing in it to escape. Made once: a page has dozens of them.
        let address = |(name, asset): (&String, &Asset)| {
            let address = format!("/static/{name}?v={}", asset.etag.trim_matches('"'));
            (name.clone(), Value::from_safe_string(address))
        };
        let addresses: HashMap<String, Value> = assets.iter().map(address).collect();
        let icon = |name: &String| name.strip_prefix("icons/")?.strip_suffix(".svg").map(str::to_owned);
        let icons: HashMap<String, Value> =
            addresses.iter().filter_map(|(name, address)| Some((icon(name)?, address.clone()))).collect();
        templates.add_function("asset", move |name: &str| {
            addresses.get(name).cloned().ok_or_else(|| {
                let what = format!("there is no static file {name}");
                minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what)
            })
        });
        // A category that the grocer made has no picture of its own.
        let any = icons.get("basket-full").cloned().unwrap_or_default();
        templates.add_function("icon", move |category: &str| icons.get(category).unwrap_or(&any).clone());
        for (name, bytes) in files_below(&home.join("templates"))? {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            templates
                .add_template_owned(name.clone(), text)
                .map_err(|source| PagesError::Template { name, source })?;
        }
        Ok(Self { templates, assets })
    }

    /// Fills in a template.
    pub(crate) fn render(&self, name: &str, values: Value) -> Result<String, PageError> {
        let failed = |source| PageError::Template { name: name.to_owned(), source };
        self.templates.get_template(name).map_err(failed)?.render(values).map_err(failed)
    }
}

/// A static file.
pub(crate) async fn asset(
    State(shop): State<Arc<Shop>>,
    UrlPath(path): UrlPath<String>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let asset = shop.pages.assets.get(&path).ok_or(PageError::NotFound)?;
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == asset.etag.as_bytes());
    let kept = [
        (header::CONTENT_TYPE, asset.kind),
        (header::ETAG, asset.etag.as_str()),
        (header::CACHE_CONTROL, "public, max-age=31536000"),
    ];
    Ok(if known {
        (StatusCode::NOT_MODIFIED, kept).into_response()
    } else {
        (kept, asset.bytes.clone()).into_response()
    })
}

fn kind_of(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("js") => "text/javascript; charset=utf-8",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// A picture of a product.
pub(crate) async fn picture(
    State(shop): State<Arc<Shop>>,
    UrlPath((name, file)): UrlPath<(String, String)>,
) -> Result<Response, PageError> {
    let width = file.strip_suffix(".jpg").and_then(|width| width.parse().ok()).ok_or(PageError::NotFound)?;
    let read = shop.store.read(move |connection| Ok::<_, PageError>(images::file(connection, &name, width)?));
    let jpeg = read.await?.ok_or(PageError::NotFound)?;
    // A new picture has a new name.
    let kept = [
        (header::CONTENT_TYPE, "image/jpeg"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    Ok((kept, jpeg).into_response())
}

/// A day as people say it: `Sunday, 1 March`.
fn day(stored: &str) -> String {
    match stored.parse::<jiff::civil::Date>() {
        Ok(day) => day.strftime("%A, %-d %B").to_string(),
        Err(_) => stored.to_owned(),
    }
}

/// A time of day as people say it: `7 am`, `5:30 pm`.
fn hour(stored: &str) -> String {
    let Some((hour, minute)) = stored.split_once(':') else { return stored.to_owned() };
    let Ok(hour) = hour.parse::<u8>() else { return stored.to_owned() };
    let half = if hour < 12 { "am" } else { "pm" };
    let hour = if hour % 12 == 0 { 12 } else { hour % 12 };
    if minute == "00" { format!("{hour} {half}") } else { format!("{hour}:{minute} {half}") }
}

/// A stored UTC time as people in India read it.
fn in_india(stored: &str) -> String {
    let offset =
        jiff::tz::TimeZone::fixed(jiff::tz::offset(5).saturating_add(jiff::SignedDuration::from_mins(30)));
    match stored.parse::<jiff::Timestamp>() {
        Ok(time) => time.to_zoned(offset).strftime("%-d %b %Y, %-I:%M %p").to_string(),
        Err(_) => stored.to_owned(),
    }
}

fn files_below(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, PagesError> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = waiting.pop() {
        let failed = |source| PagesError::Read { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                waiting.push((format!("{prefix}{name}/"), path));
            } else {
                let bytes = fs::read(&path).map_err(|source| PagesError::Read { path, source })?;
                found.insert(format!("{prefix}{name}"), bytes);
            }
        }
    }
    Ok(found)
}
