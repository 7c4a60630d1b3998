//! The pages: a line for each place, and for each change that a form makes.

mod admission;
mod cluster;
mod consumer;
mod consumers;
mod dead_letters;
mod delayed;
pub(crate) mod login;
mod message;
mod messages;
mod overview;
mod producers;
mod send;
mod topic;
mod topics;
mod transactions;
mod users;
mod waiting;

use crate::app::{Page, Problem, Visit, present};
use crate::form::Fields;
use crate::phrase::Phrase;
use raftmq_admin_client::connect::Admin;
use tonic::Status;

/// What a place shows.
pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    match visit.path.as_str() {
        "/" => overview::show(visit),
        "/login" => Ok(login::show(visit)),
        "/cluster" => cluster::show(visit).await,
        "/node" => cluster::show_node(visit).await,
        "/topics" => topics::show(visit).await,
        "/topic" => topic::show(visit).await,
        "/consumers" => consumers::show(visit).await,
        "/consumer" => consumer::show(visit).await,
        "/producers" => producers::show(visit).await,
        "/messages" => messages::show(visit).await,
        "/message" => messages::show_one(visit).await,
        "/dead-letters" => dead_letters::show(visit).await,
        "/delayed" => delayed::show(visit).await,
        "/transactions" => transactions::show(visit).await,
        "/waiting" => waiting::show(visit).await,
        "/users" => users::show(visit).await,
        "/user" => users::show_one(visit).await,
        _ => Err(Problem::Missing(visit.t(Phrase::NoSuchPage).to_owned())),
    }
}

/// Makes a change, and says what was done.
pub(crate) async fn act(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    match visit.path.as_str() {
        "/cluster/transfer" => cluster::transfer(visit, fields).await,
        "/cluster/remove" => cluster::remove(visit, fields).await,
        "/cluster/admit" => admission::admit(visit, fields).await,
        "/topic/put" => topics::put(visit, fields).await,
        "/topic/delete" => topics::delete(visit, fields).await,
        "/topic/send" => send::send(visit, fields).await,
        "/consumer/put" => consumers::put(visit, fields).await,
        "/consumer/delete" => consumers::delete(visit, fields).await,
        "/consumer/reset" => consumer::reset(visit, fields).await,
        "/dead-letters/resend" => dead_letters::resend(visit, fields).await,
        "/delayed/recall" => delayed::recall(visit, fields).await,
        "/transactions/end" => transactions::end(visit, fields).await,
        "/user/create" | "/user/update" => users::put(visit, fields).await,
        "/user/delete" => users::delete(visit, fields).await,
        "/acl/put" => users::put_rule(visit, fields).await,
        "/acl/delete" => users::delete_rule(visit, fields).await,
        _ => Err(Problem::Missing(visit.t(Phrase::NoSuchPage).to_owned())),
    }
}

/// Refuses unless the name was typed once more.
fn confirmed(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let name = fields.get("name").to_owned();
    if name.is_empty() || fields.get("confirm") != name {
        return Err(Problem::Refused(visit.t(Phrase::NotConfirmed).to_owned()));
    }
    Ok(name)
}

/// Deletes what was named and confirmed in every broker group that has it, and says in which; `missing` when none has.
async fn delete_everywhere<T, F>(
    visit: &Visit,
    fields: &Fields,
    missing: Phrase,
    call: impl Fn(Admin, String) -> F,
) -> Result<String, Problem>
where
    F: Future<Output = Result<T, Status>>,
{
    let name = confirmed(visit, fields)?;
    let directory = visit.directory()?;
    let mut done = Vec::new();
    for group in visit.groups().await? {
        let deleted = directory.on_group(&group, |node| call(node, name.clone()));
        if present(deleted.await)?.is_some() {
            done.push(group.name);
        }
    }
    if done.is_empty() {
        return Err(Problem::Missing(format!("{}: {name}", visit.t(missing))));
    }
    Ok(format!("{name}: {} ({})", visit.t(Phrase::Deleted), done.join(", ")))
}

/// A point in time of a form: empty for none; `now`, ms since 1970, `2026-11-23 18:00:00`, or as a browser writes it.
fn time_field(fields: &Fields, name: &str) -> Result<Option<u64>, String> {
    let text = fields.get(name);
    if text.is_empty() {
        return Ok(None);
    }
    let (day, clock) = match text.split_once(['T', ' ', '#']) {
        Some(parts) => parts,
        None => return raftmq_admin_client::time::point(text).map(Some),
    };
    // Seconds and milliseconds may be left out.
    let mut parts: Vec<&str> = clock.split([':', '.', ',']).collect();
    parts.resize(parts.len().max(4), "0");
    raftmq_admin_client::time::parse(&format!("{day}#{}", parts.join(":")))
        .map(Some)
        .ok_or_else(|| format!("{name} = {text} is no time such as 2026-11-23 18:00:00"))
}

#[cfg(test)]
mod tests {
    use super::time_field;
    use crate::form::Fields;

    #[test]
    fn times_as_people_and_browsers_write_them() {
        let read = |text: &str| time_field(&Fields::parse(format!("at={text}").as_bytes()), "at");
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("1500"), Ok(Some(1_500)));
        for text in ["1970-01-02T00:01", "1970-01-02 00:01:00", "1970-01-02 00:01:00.000", "1970-01-02%2300:01:00:000"]
        {
            assert_eq!(read(text), Ok(Some(86_460_000)), "{text}");
        }
        assert!(read("yesterday").is_err() && read("1970-13-02 00:00").is_err());
    }
}
