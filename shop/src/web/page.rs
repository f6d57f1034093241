//! Templates and static files: read once, from the folder beside the program.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use axum::extract::{Path as UrlPath, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, HtmlEscape, State, UndefinedBehavior, Value, context};
use sha2::{Digest, Sha256};

use super::Shop;
use super::error::PageError;
use crate::db::images;
use crate::money::Rupees;
use crate::texts::{self, Language, Part, TextsError};

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
    /// The texts of a language.
    #[error(transparent)]
    Texts(#[from] TextsError),
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
    /// English first.
    pub(crate) languages: Vec<Arc<Language>>,
    /// The templates as each language has them, in the same order.
    templates: Vec<Environment<'static>>,
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
        // Only pages that are kept have places and parts of their own.
        for name in ["shared", "own", "basket_count"] {
            templates.add_global(name, "");
        }
        templates.add_global("test_shop", crate::settings::test_shop());
        templates.add_filter("rupees", |paise: i64| Rupees(paise).to_string());
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
        let mut texts = Vec::new();
        for (name, bytes) in files_below(&home.join("templates"))? {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some(code) = name.strip_prefix("texts/").and_then(|name| name.strip_suffix(".txt")) {
                texts.push((code.to_owned(), text));
                continue;
            }
            templates
                .add_template_owned(name.clone(), text)
                .map_err(|source| PagesError::Template { name, source })?;
        }
        let languages: Vec<Arc<Language>> = texts::read(texts)?.into_iter().map(Arc::new).collect();
        let choice: Vec<Value> = languages
            .iter()
            .map(|one| context! { code => one.code.as_str(), name => one.plain("language.name"), tag => one.plain("language.tag") })
            .collect();
        templates.add_global("languages", Value::from(choice));
        let templates = languages.iter().map(|language| speaking(&templates, language)).collect();
        Ok(Self { languages, templates, assets })
    }

    /// Fills in a template, in the language of this number.
    pub(crate) fn render(&self, language: usize, name: &str, values: Value) -> Result<String, PageError> {
        let failed = |source| PageError::Template { name: name.to_owned(), source };
        // Languages are numbered by this list; the first one is always there.
        let templates = self.templates.get(language).unwrap_or(&self.templates[0]);
        templates.get_template(name).map_err(failed)?.render(values).map_err(failed)
    }

    /// The number of a language.
    pub(crate) fn language(&self, code: &str) -> Option<usize> {
        self.languages.iter().position(|language| language.code == code)
    }
}

/// The templates with what they say in a language.
fn speaking(templates: &Environment<'static>, language: &Arc<Language>) -> Environment<'static> {
    let mut templates = templates.clone();
    templates.add_global("language", language.code.as_str());
    let own = language.clone();
    templates.add_function("say", move |state: &State<'_, '_>, name: &str, values: Kwargs| {
        said(&own, state.auto_escape(), name, &values)
    });
    let own = language.clone();
    templates.add_function("unit_price", move |product: &Value| {
        let price = Rupees(product.get_attr("unit_price_paise")?.try_into()?);
        let unit = own.text(&format!("unit.{}", product.get_attr("unit_of")?), None).unwrap_or_default();
        Ok::<_, minijinja::Error>(unit.replace("{price}", &price.to_string()))
    });
    let own = language.clone();
    templates.add_filter("in_india", move |stored: &str| own.in_india(stored));
    let own = language.clone();
    templates.add_filter("day", move |stored: &str| own.day(stored));
    let own = language.clone();
    templates.add_filter("hour", move |stored: &str| own.hour(stored));
    let own = language.clone();
    templates.add_filter("reason", move |stored: &str| own.reason(stored));
    templates
}

/// A text with its places filled in. On a page it is escaped, and so is every value that no template has made.
fn said(
    language: &Language,
    escape: &AutoEscape,
    name: &str,
    values: &Kwargs,
) -> Result<Value, minijinja::Error> {
    let n = values.get::<Option<i64>>("n")?;
    let text = language.text(name, n).ok_or_else(|| {
        let what = format!("there is no text {name}");
        minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what)
    })?;
    let is_html = !matches!(escape, AutoEscape::None);
    let mut said = String::with_capacity(text.len() + 32);
    for part in texts::parts(text) {
        match part {
            Part::Text(text) if is_html => said.push_str(&HtmlEscape(text).to_string()),
            Part::Text(text) => said.push_str(text),
            Part::Place(place) => {
                let value: Value = values.get(place)?;
                let text = value.to_string();
                if is_html && !value.is_safe() {
                    said.push_str(&HtmlEscape(&text).to_string());
                } else {
                    said.push_str(&text);
                }
            }
        }
    }
    Ok(if is_html { Value::from_safe_string(said) } else { said.into() })
}

/// A static file.
pub(crate) async fn asset(
    Shared(shop): Shared<Arc<Shop>>,
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
    Shared(shop): Shared<Arc<Shop>>,
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
