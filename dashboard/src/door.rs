//! Every request goes through here: which host it was meant for, whose it is, whether it may change something, which
//! page it is for; and what every answer carries.

use crate::access::{COOKIE, Note, Role, Sessions};
use crate::app::{App, Page, Problem, Visit};
use crate::form::{Fields, cookie, place};
use crate::page;
use crate::phrase::{Language, Phrase};
use crate::view;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use maud::html;
use std::net::IpAddr;
use std::sync::Arc;

/// Bytes of a form: a message's body is the largest part, and letters may take three bytes each.
const FORM_BYTES_MAX: usize = 13 << 20;
/// The cookie with the language that was chosen.
const LANGUAGE_COOKIE: &str = "raftmq_language";
/// A choice of language is kept for a year.
const LANGUAGE_SECONDS: u64 = 31_536_000;

/// Scripts, styles and forms of this host alone, and no frame around the pages.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

pub(crate) async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut response = route(app, request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn route(app: Arc<App>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    if !host_is_meant(&app, &parts.headers, parts.uri.host()) {
        return plain(
            StatusCode::MISDIRECTED_REQUEST,
            "this dashboard is for this machine; set bindAddress for others\n",
        );
    }
    let path = parts.uri.path().to_owned();
    if let Some(asset) = view::asset(&path) {
        return asset;
    }
    if path == "/healthz" {
        return plain(StatusCode::OK, "OK\n");
    }
    let cookies: Vec<&str> =
        parts.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).collect();
    let cookies = cookies.join(";");
    let known = cookie(&cookies, COOKIE).filter(|id| Sessions::is_id(id)).map(str::to_owned);
    let is_new = known.is_none();
    let id = known.unwrap_or_else(Sessions::fresh_id);
    let query = Fields::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let language = Language::chosen(cookie(&cookies, LANGUAGE_COOKIE))
        .or_else(|| Language::accepted(text(&parts.headers, header::ACCEPT_LANGUAGE)))
        .unwrap_or_default();
    let session = app.sessions.get(&id);
    let mut visit = Visit { app: app.clone(), language, id: id.clone(), session, path, query, notes: Vec::new() };
    let mut response = match parts.method {
        Method::GET | Method::HEAD => show(&mut visit).await,
        Method::POST => act(&visit, body).await,
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, "GET and POST only\n"),
    };
    // Signing in has set another one already.
    if is_new && !response.headers().contains_key(header::SET_COOKIE) {
        set_cookie(&app, &mut response, COOKIE, &id, None);
    }
    response
}

async fn show(visit: &mut Visit) -> Response {
    if visit.path == "/language" {
        let mut response = redirect(place(visit.query.get("back")));
        if let Some(language) = Language::chosen(Some(visit.query.get("to"))) {
            set_cookie(&visit.app, &mut response, LANGUAGE_COOKIE, language.code(), Some(LANGUAGE_SECONDS));
        }
        return response;
    }
    if visit.path != "/login" && visit.session.role == Role::Nobody && visit.app.wants_login() {
        return sign_in(visit);
    }
    let shown = page::show(visit).await;
    visit.notes = visit.app.sessions.take_notes(&visit.id);
    match shown {
        Ok(page) => html_page(StatusCode::OK, visit, &page),
        Err(Problem::SignIn) => sign_in(visit),
        Err(Problem::Missing(why)) => trouble(StatusCode::NOT_FOUND, visit, Phrase::NotFound, &why),
        Err(Problem::Refused(why)) => trouble(StatusCode::BAD_GATEWAY, visit, Phrase::NotDone, &why),
    }
}

async fn act(visit: &Visit, body: Body) -> Response {
    let Ok(bytes) = to_bytes(body, FORM_BYTES_MAX).await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "the form has more than 13 MiB\n");
    };
    let fields = Fields::parse(&bytes);
    if !visit.app.sessions.is_form_token(&visit.id, fields.get("token")) {
        return trouble(StatusCode::FORBIDDEN, visit, Phrase::NotDone, visit.t(Phrase::FormTooOld));
    }
    let back = place(fields.get("back")).to_owned();
    match visit.path.as_str() {
        "/login" => return page::login::sign_in(visit, &fields).await,
        "/logout" => {
            visit.app.sessions.sign_out(&visit.id);
            let mut response = redirect("/login");
            set_cookie(&visit.app, &mut response, COOKIE, &Sessions::fresh_id(), None);
            return response;
        }
        _ => {}
    }
    if visit.session.role == Role::Nobody && visit.app.wants_login() {
        return sign_in(visit);
    }
    if !visit.may_change() {
        return trouble(StatusCode::FORBIDDEN, visit, Phrase::NotDone, visit.t(Phrase::MayOnlyLook));
    }
    let (good, text) = match page::act(visit, &fields).await {
        Ok(text) => (true, text),
        Err(Problem::SignIn) => return sign_in(visit),
        Err(Problem::Missing(why) | Problem::Refused(why)) => (false, why),
    };
    let user = if visit.session.user.is_empty() { "-" } else { &visit.session.user };
    tracing::info!(target: "audit", user, page = visit.path, done = good, "{text}");
    visit.app.sessions.note(&visit.id, Note { good, text });
    redirect(&back)
}

/// A page of another site can have its name point here (DNS rebinding); it cannot change what the browser says the
/// host is. Bound to other addresses than loopback the names are not known, and the login stands in the way.
fn host_is_meant(app: &App, headers: &HeaderMap, in_uri: Option<&str>) -> bool {
    if !app.config.bind.is_loopback() {
        return true;
    }
    let host = in_uri.map(str::to_owned).or_else(|| text(headers, header::HOST).map(str::to_owned));
    let Some(host) = host else { return true };
    is_loopback_name(&host)
}

fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _)) => name,
        None if host.matches(':').count() > 1 => host,
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub(crate) fn redirect(to: &str) -> Response {
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

fn sign_in(visit: &Visit) -> Response {
    redirect(&crate::form::link("/login", &[("back", &visit.here())]))
}

/// A cookie that scripts cannot read and other sites cannot send.
pub(crate) fn set_cookie(app: &App, response: &mut Response, name: &str, value: &str, seconds: Option<u64>) {
    let secure = if app.config.certificate.is_some() { "; Secure" } else { "" };
    let age = seconds.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{age}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

pub(crate) fn html_page(status: StatusCode, visit: &Visit, page: &Page) -> Response {
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    (status, [(header::CONTENT_TYPE, kind)], view::whole(visit, page).into_string()).into_response()
}

pub(crate) fn trouble(status: StatusCode, visit: &Visit, title: Phrase, why: &str) -> Response {
    let body = html! { p.note.bad role="alert" { (why) } };
    html_page(status, visit, &Page::new(visit.t(title), body))
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    (status, [(header::CONTENT_TYPE, kind)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::is_loopback_name;

    #[test]
    fn names_of_this_machine() {
        for (host, loopback) in [
            ("localhost:8082", true),
            ("LOCALHOST", true),
            ("127.0.0.1:8082", true),
            ("[::1]:8082", true),
            ("::1", true),
            ("evil.example:8082", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_loopback_name(host), loopback, "{host}");
        }
    }
}
