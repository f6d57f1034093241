//! The routes and what stands on each page.

#![allow(clippy::result_large_err, reason = "an answer is made once a request, and sent as it is")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use plimsoll_core::record::{Role, State as RunState};
use plimsoll_core::report::{self, Report};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::house::{House, Refused, Visitor};
use crate::login::{COOKIE, Guest, Login};
use crate::{live, metrics, spark};

/// A wrong token costs this much time.
const WRONG: Duration = Duration::from_millis(700);
/// The longest answer or note.
const TEXT: usize = 8 << 10;
/// What a page may load: nothing but itself, and no script that stands in it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// A report is one file with its styles in it, and no script at all.
const REPORT_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'";

struct Site {
    house: Arc<dyn House>,
    login: Login,
    templates: Environment<'static>,
    stopped: watch::Receiver<bool>,
}

type Here = State<Arc<Site>>;

/// All pages.
pub(crate) fn site(login: Login, house: Arc<dyn House>, stopped: watch::Receiver<bool>) -> Router {
    let site = Arc::new(Site { house, login, templates: templates(), stopped });
    Router::new()
        .route("/", get(now))
        .route("/runs", get(runs))
        .route("/runs/{run}", get(run))
        .route("/runs/{run}/report", get(report_html))
        .route("/runs/{run}/report.md", get(report_md))
        .route("/runs/{run}/report.json", get(report_json))
        .route("/runs/{run}/answer", post(answer))
        .route("/runs/{run}/sign", post(sign))
        .route("/go-ahead", post(go_ahead))
        .route("/backups", get(backups))
        .route("/login", get(login_form).post(log_in))
        .route("/logout", post(log_out))
        .route("/live", get(listen))
        .route("/metrics", get(figures))
        .route("/health", get(health))
        .route("/style.css", get(|| asset("text/css; charset=utf-8", include_str!("../static/style.css"))))
        .route("/live.js", get(|| asset("text/javascript; charset=utf-8", include_str!("../static/live.js"))))
        .fallback(|| async { (StatusCode::NOT_FOUND, "There is no such page.\n") })
        .layer(DefaultBodyLimit::max(64 << 10))
        .layer(middleware::from_fn(protect))
        .with_state(site)
}

fn templates() -> Environment<'static> {
    let mut environment = Environment::new();
    let files = [
        ("page.html", include_str!("../templates/page.html")),
        ("now.html", include_str!("../templates/now.html")),
        ("runs.html", include_str!("../templates/runs.html")),
        ("run.html", include_str!("../templates/run.html")),
        ("backups.html", include_str!("../templates/backups.html")),
        ("login.html", include_str!("../templates/login.html")),
        ("message.html", include_str!("../templates/message.html")),
    ];
    for (name, text) in files {
        if let Err(error) = environment.add_template(name, text) {
            // They are part of the program, and each is rendered by a test.
            unreachable!("{name}: {error}");
        }
    }
    environment.add_filter("took", took);
    environment.add_filter("utc", utc);
    environment.add_filter("size", size);
    environment.add_filter("ending", ending);
    environment
}

fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min {:02} s", ms / 60_000, ms % 60_000 / 1_000),
        _ => format!("{} h {:02} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

fn utc(at: String) -> String {
    at.get(..16).map_or_else(|| at.clone(), |time| time.replace('T', " "))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{}.{} kB", bytes / 1_000, bytes % 1_000 / 100),
        1_000_000..1_000_000_000 => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
        _ => format!("{}.{} GB", bytes / 1_000_000_000, bytes % 1_000_000_000 / 100_000_000),
    }
}

/// The class and the word of an ending.
fn ending(word: Option<String>) -> Value {
    let (class, text) = match word.as_deref() {
        Some("live") => ("good", "live"),
        Some("rolled-back") => ("careful", "rolled back"),
        Some("undone") => ("bad", "undone"),
        Some("unchanged") => ("careful", "nothing changed"),
        _ => ("busy", "not ended"),
    };
    context! { class, text }
}

/// What every answer bears.
async fn protect(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "same-origin");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::CACHE_CONTROL, "no-store");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    response
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")], text)
}

/// Everything that a value has.
fn all(value: &impl Serialize) -> Value {
    Value::from(Serde(value))
}

impl Site {
    fn show(&self, name: &str, guest: Option<&Guest>, more: Value) -> Response {
        let who = guest
            .map(|g| context! { name => g.name.as_str(), operator => g.operator, csrf => g.csrf.as_str() });
        let rendered = self
            .templates
            .get_template(name)
            .and_then(|template| template.render(context! { guest => who, ..more }));
        match rendered {
            Ok(page) => Html(page).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("the page cannot be shown: {error}\n"))
                .into_response(),
        }
    }

    fn message(&self, status: StatusCode, guest: Option<&Guest>, refused: &Refused, back: &str) -> Response {
        let page = self.show("message.html", guest, context! { refused => all(refused), back, app => "" });
        (status, page).into_response()
    }

    /// Asks the rest of the program, which may wait for the disk.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn House) -> T + Send + 'static,
    ) -> Option<T> {
        let house = Arc::clone(&self.house);
        tokio::task::spawn_blocking(move || question(house.as_ref())).await.ok()
    }
}

/// Who is in; or the page where one comes in.
fn guest(site: &Site, headers: &HeaderMap) -> Result<Guest, Response> {
    site.login.guest(headers).ok_or_else(|| Redirect::to("/login").into_response())
}

/// Who may act; or why not.
fn operator(site: &Site, headers: &HeaderMap, csrf: &str, back: &str) -> Result<Guest, Response> {
    let guest = guest(site, headers)?;
    let refused = |what: &str, why: &str, next: &str| {
        let refused = Refused { what: what.into(), why: why.into(), next: next.into() };
        site.message(StatusCode::FORBIDDEN, Some(&guest), &refused, back)
    };
    let foreign = headers.get("sec-fetch-site").is_some_and(|from| from != "same-origin" && from != "none");
    if csrf != guest.csrf || foreign {
        return Err(refused(
            "this form is not from here, or too old",
            "nothing was recorded",
            "load the page again and repeat it",
        ));
    }
    if !guest.operator {
        let next = "role = \"operator\" in [dashboard.people.NAME] lets one do it";
        return Err(refused("only operators may do this", "you may look", next));
    }
    Ok(guest)
}

fn visitor(guest: &Guest) -> Visitor {
    Visitor { name: guest.name.clone(), way: guest.way.clone() }
}

fn away() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "Plimsoll is stopping.\n").into_response()
}

async fn now(State(site): Here, headers: HeaderMap) -> Result<Response, Response> {
    let guest = guest(&site, &headers)?;
    let seen = site.ask(|house| {
        let now = house.now();
        let run = now.running.or(now.last.as_ref().map(|last| last.run));
        let questions = run.map(|run| house.questions(run)).unwrap_or_default();
        let going = now.running.and_then(|run| house.entries(run)).map(|entries| Report::of(&entries));
        (now, run, questions, going)
    });
    let (now, run, questions, going) = seen.await.ok_or_else(away)?;
    let picture = now.traffic.as_ref().map(|traffic| Value::from_safe_string(spark::bars(&traffic.recent)));
    let signed = now.last.as_ref().map_or(0, |last| last.signed.len());
    let more = context! {
        app => now.app.as_str(), now => all(&now), run, questions => all(&questions), going => all(&going), picture, signed,
    };
    Ok(site.show("now.html", Some(&guest), more))
}

async fn runs(State(site): Here, headers: HeaderMap) -> Result<Response, Response> {
    let guest = guest(&site, &headers)?;
    let (app, runs) = site.ask(|house| (house.now().app, house.runs())).await.ok_or_else(away)?;
    Ok(site.show("runs.html", Some(&guest), context! { app, runs => all(&runs) }))
}

async fn run(State(site): Here, headers: HeaderMap, Path(run): Path<u32>) -> Result<Response, Response> {
    let guest = guest(&site, &headers)?;
    let seen = site.ask(move |house| (house.now(), house.entries(run), house.questions(run)));
    let (now, entries, questions) = seen.await.ok_or_else(away)?;
    let entries = entries.ok_or_else(|| missing(&site, &guest, run))?;
    let state = RunState::fold(&entries);
    let report = Report::of(&entries);
    let signed = |role| {
        state.signed(role).map(|(at, signature)| context! { at => at.as_str(), name => signature.name.as_str(), note => signature.note.as_deref() })
    };
    let answers: Vec<Value> = state
        .answers
        .iter()
        .map(|(at, answer)| context! { at => at.as_str(), item => answer.item.as_str(), text => answer.text.as_str(), by => answer.by.as_str() })
        .collect();
    let going = now.running == Some(run);
    let question = now.question.filter(|_| going);
    let more = context! {
        app => report.app.as_str(), report => all(&report), run, questions => all(&questions), answers, going, question,
        deployer => signed(Role::Deployer), verifier => signed(Role::Verifier),
        over => state.is_over(), closed => state.is_closed(),
    };
    Ok(site.show("run.html", Some(&guest), more))
}

fn missing(site: &Site, guest: &Guest, run: u32) -> Response {
    let refused = Refused {
        what: format!("there is no run {run} that can be read"),
        why: "its folder is not in runs/, or its journal is damaged".to_owned(),
        next: "plimsoll audit says more".to_owned(),
    };
    site.message(StatusCode::NOT_FOUND, Some(guest), &refused, "/runs")
}

async fn report_of(site: &Site, headers: &HeaderMap, run: u32) -> Result<Report, Response> {
    let guest = guest(site, headers)?;
    let entries = site.ask(move |house| house.entries(run)).await.ok_or_else(away)?;
    Ok(Report::of(&entries.ok_or_else(|| missing(site, &guest, run))?))
}

async fn report_html(
    State(site): Here,
    headers: HeaderMap,
    Path(run): Path<u32>,
) -> Result<Response, Response> {
    let report = report_of(&site, &headers, run).await?;
    let policy = [(header::CONTENT_SECURITY_POLICY, REPORT_POLICY)];
    Ok((policy, Html(report::html(&report))).into_response())
}

async fn report_md(
    State(site): Here,
    headers: HeaderMap,
    Path(run): Path<u32>,
) -> Result<Response, Response> {
    let report = report_of(&site, &headers, run).await?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], report::markdown(&report)).into_response())
}

async fn report_json(
    State(site): Here,
    headers: HeaderMap,
    Path(run): Path<u32>,
) -> Result<Response, Response> {
    let report = report_of(&site, &headers, run).await?;
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

async fn backups(State(site): Here, headers: HeaderMap) -> Result<Response, Response> {
    let guest = guest(&site, &headers)?;
    let (now, backups) = site.ask(|house| (house.now(), house.backups())).await.ok_or_else(away)?;
    Ok(site.show(
        "backups.html",
        Some(&guest),
        context! { app => now.app, backups => all(&backups), drill => now.drill },
    ))
}

#[derive(Deserialize)]
struct AnswerForm {
    csrf: String,
    item: String,
    text: String,
}

async fn answer(
    State(site): Here,
    headers: HeaderMap,
    Path(run): Path<u32>,
    Form(form): Form<AnswerForm>,
) -> Result<Response, Response> {
    let back = format!("/runs/{run}");
    let guest = operator(&site, &headers, &form.csrf, &back)?;
    let text = form.text.trim().to_owned();
    if text.is_empty() || text.len() > TEXT {
        let refused = Refused {
            what: "the answer is empty, or too long".into(),
            why: format!("at most {TEXT} bytes"),
            next: "write a few words".into(),
        };
        return Err(site.message(StatusCode::BAD_REQUEST, Some(&guest), &refused, &back));
    }
    let by = visitor(&guest);
    let said = site.ask(move |house| house.answer(run, &form.item, &text, by)).await.ok_or_else(away)?;
    done(&site, &guest, said, &back)
}

#[derive(Deserialize)]
struct SignForm {
    csrf: String,
    role: String,
    #[serde(default)]
    note: String,
}

async fn sign(
    State(site): Here,
    headers: HeaderMap,
    Path(run): Path<u32>,
    Form(form): Form<SignForm>,
) -> Result<Response, Response> {
    let back = format!("/runs/{run}");
    let guest = operator(&site, &headers, &form.csrf, &back)?;
    let role = if form.role == "verifier" { Role::Verifier } else { Role::Deployer };
    let note = form.note.trim().to_owned();
    let note = (!note.is_empty() && note.len() <= TEXT).then_some(note);
    let by = visitor(&guest);
    let said = site.ask(move |house| house.sign(run, role, note, by)).await.ok_or_else(away)?;
    done(&site, &guest, said, &back)
}

#[derive(Deserialize)]
struct GoAheadForm {
    csrf: String,
    answer: String,
}

async fn go_ahead(
    State(site): Here,
    headers: HeaderMap,
    Form(form): Form<GoAheadForm>,
) -> Result<Response, Response> {
    let guest = operator(&site, &headers, &form.csrf, "/")?;
    let (yes, by) = (form.answer == "yes", visitor(&guest));
    let said = site.ask(move |house| house.go_ahead(yes, by)).await.ok_or_else(away)?;
    done(&site, &guest, said, "/")
}

fn done(site: &Site, guest: &Guest, said: Result<String, Refused>, back: &str) -> Result<Response, Response> {
    match said {
        Ok(_) => Ok(Redirect::to(back).into_response()),
        Err(refused) => Err(site.message(StatusCode::CONFLICT, Some(guest), &refused, back)),
    }
}

async fn login_form(State(site): Here, headers: HeaderMap) -> Response {
    if site.login.guest(&headers).is_some() {
        return Redirect::to("/").into_response();
    }
    let app = site.ask(|house| house.now().app).await;
    site.show("login.html", None, context! { app, tokens => site.login.has_tokens(), wrong => false })
}

#[derive(Deserialize)]
struct LoginForm {
    token: String,
}

async fn log_in(State(site): Here, headers: HeaderMap, Form(form): Form<LoginForm>) -> Response {
    let foreign = headers.get("sec-fetch-site").is_some_and(|from| from != "same-origin" && from != "none");
    let session = if foreign { None } else { site.login.open(&form.token) };
    let Some(session) = session else {
        tokio::time::sleep(WRONG).await;
        let app = site.ask(|house| house.now().app).await;
        let page =
            site.show("login.html", None, context! { app, tokens => site.login.has_tokens(), wrong => true });
        return (StatusCode::UNAUTHORIZED, page).into_response();
    };
    let secure = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200{secure}");
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

#[derive(Deserialize)]
struct LogoutForm {
    csrf: String,
}

async fn log_out(State(site): Here, headers: HeaderMap, Form(form): Form<LogoutForm>) -> Response {
    if site.login.guest(&headers).is_some_and(|guest| guest.csrf == form.csrf) {
        site.login.close(&headers);
    }
    Redirect::to("/login").into_response()
}

async fn listen(State(site): Here, headers: HeaderMap) -> Response {
    match site.login.guest(&headers) {
        Some(_) => live::events(Arc::clone(&site.house), site.stopped.clone()),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn figures(State(site): Here) -> Result<Response, Response> {
    let text = site.ask(|house| metrics::text(&house.now(), &house.runs())).await.ok_or_else(away)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// 200 when nothing is wrong, else 503 and what is.
async fn health(State(site): Here) -> Result<Response, Response> {
    let now = site.ask(|house| house.now()).await.ok_or_else(away)?;
    let well = now.trouble.is_empty() && matches!(now.door.as_str(), "open" | "none" | "held");
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "status": if well { "ok" } else { "trouble" }, "release": now.release, "door": now.door,
        "running": now.running, "trouble": now.trouble.len(),
    });
    Ok((status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response())
}
