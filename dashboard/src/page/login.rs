//! Signing in: with the keys of a user of the cluster, or as the viewer that the dashboard's file names.

use crate::access::{COOKIE, Role, Session, WRONG_PAUSE, same};
use crate::app::{Page, Problem, Visit};
use crate::door::{html_page, redirect, set_cookie};
use crate::form::{Fields, place};
use crate::phrase::Phrase as P;
use axum::http::StatusCode;
use axum::response::Response;
use maud::html;
use raftmq_admin_client::{credentials, error::AdminError};
use raftmq_proto::admin::GroupStatusRequest;
use raftmq_proto::signature::Credentials;

pub(crate) fn show(visit: &Visit) -> Page {
    form(visit, None)
}

fn form(visit: &Visit, wrong: Option<&str>) -> Page {
    let body = html! {
        @if let Some(wrong) = wrong { p.note.bad role="alert" { (wrong) } }
        p { (visit.t(P::SignInWith)) }
        form method="post" action="/login" {
            input type="hidden" name="token" value=(visit.app.sessions.form_token(&visit.id));
            input type="hidden" name="back" value=(place(visit.query.get("back")));
            label { (visit.t(P::AccessKey)) " " input type="text" name="user" required autocomplete="username"; }
            label { (visit.t(P::SecretKey)) " " input type="password" name="password" required autocomplete="current-password"; }
            button type="submit" { (visit.t(P::SignIn)) }
        }
    };
    Page::new(visit.t(P::SignIn), body)
}

pub(crate) async fn sign_in(visit: &Visit, fields: &Fields) -> Response {
    let (user, password) = (fields.get("user").to_owned(), fields.raw("password"));
    let sessions = &visit.app.sessions;
    let is_viewer = visit
        .app
        .config
        .viewer
        .as_ref()
        .is_some_and(|(name, secret)| same(sessions, name, &user) & same(sessions, secret, password));
    let session = if is_viewer {
        Session { role: Role::Viewer, credentials: visit.app.config.credentials.clone(), user }
    } else {
        let keys = Credentials { access_key: user.clone(), secret_key: password.to_owned() };
        match check(visit, &keys).await {
            Ok(()) => Session { role: Role::User, credentials: Some(keys), user },
            Err(why) => {
                tracing::warn!(target: "audit", user, "sign-in refused");
                tokio::time::sleep(WRONG_PAUSE).await;
                let why = match why {
                    Problem::SignIn => visit.t(P::WrongKeys).to_owned(),
                    Problem::Missing(why) | Problem::Refused(why) => why,
                };
                return html_page(StatusCode::FORBIDDEN, visit, &form(visit, Some(&why)));
            }
        }
    };
    tracing::info!(target: "audit", user = session.user, "signed in");
    // Another id than before: one that somebody planted is worth nothing.
    let id = sessions.sign_in(session);
    sessions.sign_out(&visit.id);
    let mut response = redirect(place(fields.get("back")));
    set_cookie(&visit.app, &mut response, COOKIE, &id, None);
    response
}

/// Whether a node of the cluster takes calls signed with these keys.
async fn check(visit: &Visit, keys: &Credentials) -> Result<(), Problem> {
    if let Some(problem) = credentials::problem(keys) {
        return Err(Problem::Refused(problem));
    }
    let groups = visit.app.groups(Some(keys.clone())).await.map_err(|error| match error {
        // The name server knows one user only, and says no to all others.
        AdminError::NoNameServer { reasons } => Problem::Refused(reasons),
        other => other.into(),
    })?;
    let directory = visit.app.directory(Some(keys.clone()), &keys.access_key)?;
    let Some(group) = groups.first() else { return Err(Problem::Refused(visit.t(P::NoGroups).to_owned())) };
    directory.on_group(group, |mut node| async move { node.group_status(GroupStatusRequest {}).await }).await?;
    Ok(())
}
