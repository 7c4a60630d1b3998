//! What pages are made of: the frame around each, tables, forms, and how values are written.

use crate::access::Role;
use crate::app::{Page, Visit};
use crate::form::link;
use crate::phrase::{Language, Phrase};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, html};
use raftmq_admin_client::time::human;

const STYLE: &str = include_str!("asset/style.css");
const SCRIPT: &str = include_str!("asset/live.js");
const ICON: &str = include_str!("asset/icon.svg");

/// Rows of a table on one page.
pub(crate) const ROWS: usize = 50;
/// What is not known.
pub(crate) const UNKNOWN: &str = "–";

/// Pages in the order of the menu.
const MENU: [(&str, Phrase); 10] = [
    ("/", Phrase::Overview),
    ("/cluster", Phrase::Cluster),
    ("/topics", Phrase::Topics),
    ("/consumers", Phrase::Consumers),
    ("/producers", Phrase::Producers),
    ("/messages", Phrase::Messages),
    ("/dead-letters", Phrase::DeadLetters),
    ("/delayed", Phrase::Delayed),
    ("/transactions", Phrase::Transactions),
    ("/users", Phrase::Users),
];

/// A file that pages refer to.
pub(crate) fn asset(path: &str) -> Option<Response> {
    let (kind, text) = match path {
        "/style.css" => ("text/css; charset=utf-8", STYLE),
        "/icon.svg" => ("image/svg+xml", ICON),
        "/live.js" => ("text/javascript; charset=utf-8", SCRIPT),
        _ => return None,
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "max-age=300")];
    Some((headers.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response())
}

/// A page with what stands around every page.
pub(crate) fn whole(visit: &Visit, page: &Page) -> Markup {
    let t = |phrase| visit.t(phrase);
    let other = visit.language.other();
    let here = |path: &str| {
        visit.path == path || (path != "/" && visit.path.trim_end_matches('s') == path.trim_end_matches('s'))
    };
    html! {
        (DOCTYPE)
        html lang=(visit.language.code()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (page.title) " · RaftMQ" }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/style.css";
                @if page.live { script src="/live.js" defer {} }
            }
            body {
                a.skip href="#content" { (t(Phrase::SkipToContent)) }
                header.top {
                    a.brand href="/" { "RaftMQ" }
                    nav aria-label=(t(Phrase::Menu)) {
                        ul {
                            @for (path, phrase) in MENU {
                                li { a href=(path) aria-current=[here(path).then_some("page")] { (t(phrase)) } }
                            }
                        }
                    }
                    div.who {
                        a href=(link("/language", &[("to", other.code()), ("back", &visit.here())])) lang=(other.code()) { (other.name()) }
                        @if visit.session.role != Role::Nobody {
                            span { (visit.session.user) @if visit.session.role == Role::Viewer { " (" (t(Phrase::ReadOnly)) ")" } }
                            form method="post" action="/logout" {
                                input type="hidden" name="token" value=(visit.app.sessions.form_token(&visit.id));
                                button.plain type="submit" { (t(Phrase::SignOut)) }
                            }
                        }
                    }
                }
                main #content tabindex="-1" {
                    h1 { (page.title) }
                    @for note in &visit.notes {
                        p.note.good[note.good].bad[!note.good] role=(if note.good { "status" } else { "alert" }) { (note.text) }
                    }
                    @if page.live {
                        p #lost.note.bad role="alert" hidden { (t(Phrase::ConnectionLost)) }
                        div #live { (page.body) }
                    } @else { (page.body) }
                }
                footer { p { "RaftMQ " (env!("CARGO_PKG_VERSION")) " · " (t(Phrase::TimesInUtc)) } }
            }
        }
    }
}

/// A table with a caption; the first cell of each row names it.
pub(crate) fn table(visit: &Visit, caption: &str, head: &[Phrase], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div.scroll role="region" aria-label=(caption) tabindex="0" {
            table {
                caption { (caption) }
                thead { tr { @for phrase in head { th scope="col" { (visit.t(*phrase)) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            @for (place, cell) in row.iter().enumerate() {
                                @if place == 0 { th scope="row" { (cell) } } @else { td { (cell) } }
                            }
                        }
                    }
                    @if rows.is_empty() {
                        tr { td colspan=(head.len()) { (visit.t(Phrase::Nothing)) } }
                    }
                }
            }
        }
    }
}

/// The rows of the page that the query names, and links to the others.
pub(crate) fn paged<'r, T>(visit: &Visit, rows: &'r [T]) -> (&'r [T], Markup) {
    paged_by(visit, "page", visit.t(Phrase::PagesOfTable), rows)
}

/// As [`paged`], for one of several tables of a page: the field of the query that names its page, and what the table
/// is called. A table of one page has no links.
pub(crate) fn paged_of<'r, T>(visit: &Visit, name: &str, caption: Phrase, rows: &'r [T]) -> (&'r [T], Markup) {
    if rows.len() <= ROWS {
        return (rows, html! {});
    }
    paged_by(visit, name, &format!("{}: {}", visit.t(Phrase::PagesOfTable), visit.t(caption)), rows)
}

fn paged_by<'r, T>(visit: &Visit, name: &str, label: &str, rows: &'r [T]) -> (&'r [T], Markup) {
    let pages = rows.len().div_ceil(ROWS).max(1);
    let page = visit.query.get(name).parse::<usize>().unwrap_or(1).clamp(1, pages);
    let from = (page - 1) * ROWS;
    let shown = rows.get(from..rows.len().min(from + ROWS)).unwrap_or_default();
    let to = |page: usize| format!("{}?{}", visit.path, visit.query.with(name, &page.to_string()));
    let markup = html! {
        nav.pager aria-label=(label) {
            span { (from + shown.len().min(1)) "–" (from + shown.len()) " / " (rows.len()) }
            @if page > 1 { a rel="prev" href=(to(page - 1)) { (visit.t(Phrase::PageBefore)) } }
            @if page < pages { a rel="next" href=(to(page + 1)) { (visit.t(Phrase::PageAfter)) } }
        }
    };
    (shown, markup)
}

/// A search above a table; other fields of the query stay.
pub(crate) fn search(visit: &Visit, more: Markup) -> Markup {
    html! {
        form.search method="get" action=(visit.path) role="search" {
            label { (visit.t(Phrase::NameContains)) " " input type="search" name="q" value=(visit.query.get("q")); }
            (more)
            button type="submit" { (visit.t(Phrase::Search)) }
        }
    }
}

/// Whether a name is searched for; case does not matter.
pub(crate) fn wanted(visit: &Visit, name: &str) -> bool {
    let query = visit.query.get("q");
    query.is_empty() || name.to_lowercase().contains(&query.to_lowercase())
}

/// A form that changes something and comes back to this page; nothing for those who may only look.
pub(crate) fn change(visit: &Visit, action: &str, button: Phrase, fields: Markup) -> Markup {
    change_to(visit, action, &visit.here(), button, fields)
}

/// As [`change`], going to another page.
pub(crate) fn change_to(visit: &Visit, action: &str, back: &str, button: Phrase, fields: Markup) -> Markup {
    html! {
        @if visit.may_change() {
            form.change method="post" action=(action) {
                input type="hidden" name="token" value=(visit.app.sessions.form_token(&visit.id));
                input type="hidden" name="back" value=(back);
                (fields)
                button type="submit" { (visit.t(button)) }
            }
        }
    }
}

/// What opens below a word.
pub(crate) fn fold(visit: &Visit, word: Phrase, content: Markup) -> Markup {
    fold_if(visit, word, false, content)
}

/// As [`fold`], open from the beginning where that is asked for.
pub(crate) fn fold_if(visit: &Visit, word: Phrase, open: bool, content: Markup) -> Markup {
    html! { @if visit.may_change() { details open[open] { summary { (visit.t(word)) } (content) } } }
}

pub(crate) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// A labelled field of text.
pub(crate) fn field(visit: &Visit, label: Phrase, name: &str, value: &str) -> Markup {
    html! { label { (visit.t(label)) " " input type="text" name=(name) value=(value) autocomplete="off"; } }
}

/// A labelled field that must be filled in.
pub(crate) fn required(visit: &Visit, label: Phrase, name: &str, value: &str) -> Markup {
    html! { label { (visit.t(label)) " " input type="text" name=(name) value=(value) required autocomplete="off"; } }
}

/// The name must be typed before something goes that does not come back.
pub(crate) fn confirmation(visit: &Visit, name: &str) -> Markup {
    html! {
        (hidden("name", name))
        label { (visit.t(Phrase::TypeToConfirm)) " " code { (name) } " " input type="text" name="confirm" required autocomplete="off"; }
    }
}

/// `1,234,567`.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number that may not be known.
pub(crate) fn known(value: Option<u64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), number)
}

/// A limit of which 0 says that there is none.
pub(crate) fn limit(visit: &Visit, value: u64) -> String {
    if value == 0 { visit.t(Phrase::Unlimited).to_owned() } else { number(value) }
}

/// A number of which 0 says that it is not known.
pub(crate) fn known_unless_0(value: u64) -> String {
    known(Some(value).filter(|value| *value > 0))
}

pub(crate) fn per_second(value: Option<f64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| format!("{}/s", crate::chart::short(value)))
}

/// In UTC; 0 says that it is not known or was never.
pub(crate) fn time(ms: u64) -> String {
    if ms == 0 { UNKNOWN.to_owned() } else { human(ms).replace(',', ".") }
}

pub(crate) fn bytes(value: u64) -> String {
    let value_f = crate::samples::float(value);
    match value {
        0..1_024 => format!("{value} B"),
        1_024..1_048_576 => format!("{:.1} KiB", value_f / 1_024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", value_f / 1_048_576.0),
        _ => format!("{:.2} GiB", value_f / 1_073_741_824.0),
    }
}

/// A text that may be empty.
pub(crate) fn text(value: &str) -> &str {
    if value.is_empty() { UNKNOWN } else { value }
}

/// The language that the page is not in.
impl Language {
    pub(crate) fn other(self) -> Language {
        match self {
            Language::English => Language::Chinese,
            Language::Chinese => Language::English,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_what_is_not_known() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([known(None), known(Some(0)), known_unless_0(0)], ["–", "0", "–"]);
        assert_eq!([per_second(None), per_second(Some(0.0))], ["–", "0/s"]);
        assert_eq!([time(0), time(1)], ["–", "1970-01-01 00:00:00.001"]);
        assert_eq!([bytes(5), bytes(2_048), bytes(3 << 20), bytes(5 << 30)], ["5 B", "2.0 KiB", "3.0 MiB", "5.00 GiB"]);
    }
}
