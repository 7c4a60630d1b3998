//! Users and what they may do: the calls of mqadmin's createUser, updateUser, deleteUser, createAcl, updateAcl, deleteAcl.

use super::delete_everywhere;
use crate::app::{Page, Problem, Visit, present};
use crate::form::{Fields, link};
use crate::phrase::Phrase as P;
use crate::view::{
    change, change_to, confirmation, field, fold, hidden, limit, paged, paged_of, required, search, table, time, wanted,
};
use maud::{Markup, html};
use raftmq_admin_client::directory::{Directory, Group};
use raftmq_admin_client::error::AdminError;
use raftmq_proto::admin::{
    Acl, AclRule, DeleteAclRequest, DeleteUserRequest, ListAclsRequest, ListUsersRequest, PutAclRequest,
    PutUserRequest, User,
};
use std::collections::BTreeMap;
use tokio_stream::StreamExt as _;

async fn users(directory: &Directory, group: &Group) -> Result<Vec<User>, AdminError> {
    let listed = directory.read_group(group, |mut node, stale| async move {
        let request = ListUsersRequest { stale, ..ListUsersRequest::default() };
        let mut parts = node.list_users(request).await?.into_inner();
        let mut users = Vec::new();
        while let Some(part) = parts.next().await {
            users.extend(part?.users);
        }
        Ok(users)
    });
    listed.await.map(|(_, users)| users)
}

/// Users of all broker groups by name, each as it was changed last.
async fn all(visit: &Visit) -> Result<BTreeMap<String, User>, Problem> {
    let directory = visit.directory()?;
    let mut all: BTreeMap<String, User> = BTreeMap::new();
    for group in visit.groups().await? {
        for user in users(&directory, &group).await? {
            if all.get(&user.name).is_none_or(|known| known.version < user.version) {
                all.insert(user.name.clone(), user);
            }
        }
    }
    Ok(all)
}

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let all = all(visit).await?;
    let found: Vec<&User> = all.values().filter(|user| wanted(visit, &user.name)).collect();
    let (shown, pager) = paged(visit, &found);
    let rows: Vec<Vec<Markup>> = shown
        .iter()
        .map(|user| {
            vec![
                html! { a href=(link("/user", &[("name", &user.name)])) { (user.name) } },
                html! { (kind(user)) },
                html! { @if user.disabled { span.bad { (visit.t(P::Disabled)) } } @else { (visit.t(P::Enabled)) } },
                html! { (limit(visit, user.rate_messages)) },
                html! { (limit(visit, user.rate_bytes)) },
                html! { (time(user.updated_ms)) },
            ]
        })
        .collect();
    let head = [P::User, P::UserType, P::UserStatus, P::RateMessages, P::RateBytes, P::Changed];
    let body = html! {
        (search(visit, html! {}))
        (table(visit, visit.t(P::Users), &head, &rows))
        (pager)
        p.faint { (visit.t(P::UsersExplained)) }
        (fold(visit, P::NewUser, change(visit, "/user/create", P::NewUser, html! {
            (required(visit, P::User, "name", ""))
            (secret(visit, true))
            (kinds(visit, None))
            (rates(visit, None))
        })))
    };
    Ok(Page::new(visit.t(P::Users), body))
}

fn kind(user: &User) -> &'static str {
    if user.admin { "Super" } else { "Normal" }
}

/// A field whose content nobody reads over a shoulder.
fn secret(visit: &Visit, required: bool) -> Markup {
    html! {
        label { (visit.t(P::NewSecret)) " " input type="password" name="secret" required[required] autocomplete="new-password"; }
    }
}

fn kinds(visit: &Visit, user: Option<&User>) -> Markup {
    let admin = user.is_some_and(|user| user.admin);
    html! {
        label { (visit.t(P::UserType)) " " select name="admin" {
            option value="false" selected[!admin] { "Normal" }
            option value="true" selected[admin] { "Super" }
        } }
    }
}

fn rates(visit: &Visit, user: Option<&User>) -> Markup {
    let shown = |value: fn(&User) -> u64| user.map(|user| value(user).to_string()).unwrap_or_default();
    html! {
        (field(visit, P::RateMessages, "rate_messages", &shown(|user| user.rate_messages)))
        (field(visit, P::RateBytes, "rate_bytes", &shown(|user| user.rate_bytes)))
    }
}

pub(crate) async fn show_one(visit: &Visit) -> Result<Page, Problem> {
    let name = visit.query.get("name");
    let all = all(visit).await?;
    let user = all.get(name).ok_or_else(|| Problem::Missing(format!("{}: {name}", visit.t(P::NoSuchUser))))?;
    let rules = rules(visit, &format!("User:{name}")).await?;
    let (shown, pager) = paged_of(visit, "rules", P::AccessRules, &rules);
    let rows: Vec<Vec<Markup>> = shown.iter().map(|rule| rule_cells(visit, name, rule)).collect();
    let head = [P::Resource, P::Actions, P::SourceAddresses, P::Decision, P::Policy, P::Remove];
    let body = html! {
        dl.cards {
            div { dt { (visit.t(P::UserType)) } dd { (kind(user)) } }
            div { dt { (visit.t(P::UserStatus)) } dd.bad[user.disabled] { (visit.t(if user.disabled { P::Disabled } else { P::Enabled })) } }
            div { dt { (visit.t(P::Created)) } dd { (time(user.created_ms)) } }
        }
        (table(visit, visit.t(P::AccessRules), &head, &rows))
        (pager)
        p.faint { (visit.t(P::RulesExplained)) }
        (fold(visit, P::PutRule, change(visit, "/acl/put", P::PutRule, rule_fields(visit, name))))
        (fold(visit, P::ChangeUser, change(visit, "/user/update", P::ChangeUser, html! {
            (hidden("name", name))
            (secret(visit, false))
            (kinds(visit, Some(user)))
            label { (visit.t(P::UserStatus)) " " select name="disabled" {
                option value="false" selected[!user.disabled] { (visit.t(P::Enabled)) }
                option value="true" selected[user.disabled] { (visit.t(P::Disabled)) }
            } }
            (rates(visit, Some(user)))
        })))
        (fold(visit, P::DeleteUser, html! {
            p { (visit.t(P::UserDeletionIsFinal)) }
            (change_to(visit, "/user/delete", "/users", P::DeleteUser, confirmation(visit, name)))
        }))
    };
    Ok(Page::new(format!("{} {name}", visit.t(P::User)), body))
}

/// The rules of a subject: those of the broker group where they were changed last.
async fn rules(visit: &Visit, subject: &str) -> Result<Vec<AclRule>, Problem> {
    let directory = visit.directory()?;
    let mut newest: Option<Acl> = None;
    for group in visit.groups().await? {
        let listed = directory.read_group(&group, |mut node, stale| {
            let request = ListAclsRequest { subject: subject.to_owned(), stale, ..ListAclsRequest::default() };
            async move {
                let mut parts = node.list_acls(request).await?.into_inner();
                let mut acls = Vec::new();
                while let Some(part) = parts.next().await {
                    acls.extend(part?.acls);
                }
                Ok(acls)
            }
        });
        for acl in present(listed.await)?.map(|(_, acls)| acls).unwrap_or_default() {
            if newest.as_ref().is_none_or(|known| known.version < acl.version) {
                newest = Some(acl);
            }
        }
    }
    Ok(newest.map(|acl| acl.rules).unwrap_or_default())
}

fn rule_cells(visit: &Visit, user: &str, rule: &AclRule) -> Vec<Markup> {
    let policy = if rule.policy.is_empty() { "Custom" } else { &rule.policy };
    let sources = if rule.sources.is_empty() { visit.t(P::All).to_owned() } else { rule.sources.join(", ") };
    vec![
        html! { code { (rule.resource) } },
        html! { (rule.actions.join(", ")) },
        html! { (sources) },
        html! { @if rule.decision == "Deny" { span.bad { (rule.decision) } } @else { (rule.decision) } },
        html! { (policy) },
        change(
            visit,
            "/acl/delete",
            P::Remove,
            html! {
                (hidden("user", user)) (hidden("resource", &rule.resource)) (hidden("policy", policy))
            },
        ),
    ]
}

fn rule_fields(visit: &Visit, user: &str) -> Markup {
    let choice = |label: P, name: &str, words: &[&str]| {
        html! {
            label { (visit.t(label)) " " select name=(name) {
                @for word in words { option value=(word) { (word) } }
            } }
        }
    };
    html! {
        (hidden("user", user))
        (required(visit, P::Resource, "resource", "Topic:"))
        (choice(P::Actions, "actions", &["Pub", "Sub", "Pub,Sub", "All"]))
        (field(visit, P::SourceAddresses, "sources", ""))
        (choice(P::Decision, "decision", &["Allow", "Deny"]))
        (choice(P::Policy, "policy", &["Custom", "Default"]))
    }
}

/// Has every broker group carry a change out, and says which did.
async fn everywhere<T, F>(
    visit: &Visit,
    name: &str,
    did: P,
    call: impl Fn(raftmq_admin_client::connect::Admin) -> F,
) -> Result<String, Problem>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let directory = visit.directory()?;
    let mut done = Vec::new();
    for group in visit.groups().await? {
        directory.on_group(&group, &call).await?;
        done.push(group.name);
    }
    Ok(format!("{name}: {} ({})", visit.t(did), done.join(", ")))
}

fn put_request(fields: &Fields, update: bool) -> Result<PutUserRequest, Problem> {
    // White space may be part of it.
    let secret = Some(fields.raw("secret").to_owned()).filter(|secret| !secret.is_empty());
    Ok(PutUserRequest {
        name: fields.get("name").to_owned(),
        secret,
        admin: fields.number("admin")?,
        disabled: if update { fields.number("disabled")? } else { None },
        update,
        rate_messages: fields.number("rate_messages")?,
        rate_bytes: fields.number("rate_bytes")?,
    })
}

pub(crate) async fn put(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let request = put_request(fields, visit.path == "/user/update")?;
    everywhere(visit, &request.name, P::UserStored, |mut node| {
        let request = request.clone();
        async move { node.put_user(request).await }
    })
    .await
}

pub(crate) async fn delete(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    delete_everywhere(visit, fields, P::NoSuchUser, |mut node, name| async move {
        node.delete_user(DeleteUserRequest { name }).await
    })
    .await
}

/// The words of a field, separated by commas or white space.
fn words(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

pub(crate) async fn put_rule(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let subject = format!("User:{}", fields.get("user"));
    // A rule for the same resource is replaced; the first one of a user is created.
    let update = !rules(visit, &subject).await?.is_empty();
    let rule = AclRule {
        policy: fields.get("policy").to_owned(),
        resource: fields.get("resource").to_owned(),
        actions: words(fields.get("actions")),
        sources: words(fields.get("sources")),
        decision: fields.get("decision").to_owned(),
    };
    let request = PutAclRequest { subject: subject.clone(), rules: vec![rule], update };
    everywhere(visit, &subject, P::RuleStored, |mut node| {
        let request = request.clone();
        async move { node.put_acl(request).await }
    })
    .await
}

pub(crate) async fn delete_rule(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let subject = format!("User:{}", fields.get("user"));
    let request = DeleteAclRequest {
        subject: subject.clone(),
        resource: fields.get("resource").to_owned(),
        policy: fields.get("policy").to_owned(),
    };
    everywhere(visit, &subject, P::RuleRemoved, |mut node| {
        let request = request.clone();
        async move { node.delete_acl(request).await }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_form_says_of_a_user() {
        let fields = Fields::parse(b"name=alice&secret=+a+b&admin=true&disabled=true&rate_messages=5&rate_bytes=");
        let request = put_request(&fields, true).expect("a good form");
        assert_eq!(
            (request.secret.as_deref(), request.admin, request.disabled),
            (Some(" a b"), Some(true), Some(true))
        );
        assert_eq!((request.rate_messages, request.rate_bytes, request.update), (Some(5), None, true));
        let request = put_request(&Fields::parse(b"name=bob&secret="), false).expect("a good form");
        assert_eq!((request.secret, request.admin), (None, None), "what is not given stays");
        assert!(put_request(&Fields::parse(b"name=bob&admin=maybe"), true).is_err());
        assert_eq!(words("Pub, Sub 10.0.0.0/8"), ["Pub", "Sub", "10.0.0.0/8"]);
    }
}
