//! `createUser`, `updateUser`, `deleteUser`, `getUser`, `listUser`: who may call where access control is on.

use super::{PerGroup, Where};
use crate::confirm::Consent;
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::{Args, ValueEnum};
use raftmq_proto::admin::{DeleteUserRequest, ListUsersRequest, PutUserRequest, User};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

/// What a user may do without being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UserType {
    /// Everything.
    #[value(name = "Super")]
    Super,
    /// What its access rules say.
    #[value(name = "Normal")]
    Normal,
}

/// Whether a user is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UserStatus {
    /// It is.
    #[value(name = "enable")]
    Enable,
    /// It is not.
    #[value(name = "disable")]
    Disable,
}

/// What a user may send.
#[derive(Debug, Args)]
struct Rate {
    /// Messages that it may send in a second; 0 for any number.
    #[arg(long = "rateMessages", value_name = "MESSAGES")]
    rate_messages: Option<u64>,
    /// Bytes of bodies that it may send in a second; 0 for any number.
    #[arg(long = "rateBytes", value_name = "BYTES")]
    rate_bytes: Option<u64>,
}

/// Create a user.
///
/// The password is what clients sign with (their secret key), so it is stored as it is.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin createUser -n localhost:9876 -c DefaultCluster -u alice -p 12345678 -t Normal"
)]
pub(crate) struct Create {
    #[command(flatten)]
    place: Where,
    /// Its name: the access key.
    #[arg(short = 'u', long = "username")]
    name: String,
    /// Its password: the secret key.
    #[arg(short = 'p', long = "password", allow_hyphen_values = true)]
    password: String,
    /// Super may do everything, Normal what access rules say.
    #[arg(short = 't', long = "userType", ignore_case = true, default_value = "Normal")]
    user_type: UserType,
    #[command(flatten)]
    rate: Rate,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Change a user; what is not given stays as it is.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin updateUser -n localhost:9876 -c DefaultCluster -u alice -s disable",
    group(clap::ArgGroup::new("change").required(true).multiple(true).args(["password", "user_type", "status", "rate_messages", "rate_bytes"]))
)]
pub(crate) struct Update {
    #[command(flatten)]
    place: Where,
    /// Its name: the access key.
    #[arg(short = 'u', long = "username")]
    name: String,
    /// Its password: the secret key.
    #[arg(short = 'p', long = "password", allow_hyphen_values = true)]
    password: Option<String>,
    /// Super may do everything, Normal what access rules say.
    #[arg(short = 't', long = "userType", ignore_case = true)]
    user_type: Option<UserType>,
    /// Whether it is let in.
    #[arg(short = 's', long = "userStatus", ignore_case = true)]
    status: Option<UserStatus>,
    #[command(flatten)]
    rate: Rate,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Delete a user and its access rules.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin deleteUser -n localhost:9876 -c DefaultCluster -u alice")]
pub(crate) struct Delete {
    #[command(flatten)]
    place: Where,
    /// Its name: the access key.
    #[arg(short = 'u', long = "username")]
    name: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Show a user.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getUser -n localhost:9876 -c DefaultCluster -u alice")]
pub(crate) struct Get {
    #[command(flatten)]
    place: Where,
    /// Its name: the access key.
    #[arg(short = 'u', long = "username")]
    name: String,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// List users.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin listUser -n localhost:9876 -c DefaultCluster")]
pub(crate) struct List {
    #[command(flatten)]
    place: Where,
    /// Only those whose name contains this.
    #[arg(short = 'f', long = "filter", default_value = "")]
    filter: String,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn create(directory: &Directory, arguments: &Create) -> Result<Outcome, AdminError> {
    let request = PutUserRequest {
        name: arguments.name.clone(),
        secret: Some(arguments.password.clone()),
        admin: Some(arguments.user_type == UserType::Super),
        rate_messages: arguments.rate.rate_messages,
        rate_bytes: arguments.rate.rate_bytes,
        ..PutUserRequest::default()
    };
    put(directory, &arguments.place, "create", request).await
}

pub(crate) async fn update(directory: &Directory, arguments: &Update) -> Result<Outcome, AdminError> {
    if arguments.status == Some(UserStatus::Disable) {
        arguments.consent.ask(&format!("User {} is let in no more, in none of its clients.", arguments.name))?;
    }
    let request = PutUserRequest {
        name: arguments.name.clone(),
        secret: arguments.password.clone(),
        admin: arguments.user_type.map(|user_type| user_type == UserType::Super),
        disabled: arguments.status.map(|status| status == UserStatus::Disable),
        update: true,
        rate_messages: arguments.rate.rate_messages,
        rate_bytes: arguments.rate.rate_bytes,
    };
    put(directory, &arguments.place, "update", request).await
}

async fn put(directory: &Directory, place: &Where, verb: &str, request: PutUserRequest) -> Result<Outcome, AdminError> {
    let mut report = PerGroup::default();
    for group in directory.groups(place.target()).await? {
        let put = directory.on_group(&group, |mut node| {
            let request = request.clone();
            async move { Ok(node.put_user(request).await?.into_inner()) }
        });
        report.did(&group, verb, "user", &request.name, put.await.map(|(address, _)| address));
    }
    Ok(report.outcome())
}

pub(crate) async fn delete(directory: &Directory, arguments: &Delete) -> Result<Outcome, AdminError> {
    arguments.consent.ask(&format!("User {} is deleted, and its clients are refused.", arguments.name))?;
    let mut report = PerGroup::default();
    for group in directory.groups(arguments.place.target()).await? {
        let deleted = directory.on_group(&group, |mut node| {
            let request = DeleteUserRequest { name: arguments.name.clone() };
            async move { Ok(node.delete_user(request).await?.into_inner()) }
        });
        report.did(&group, "delete", "user", &arguments.name, deleted.await.map(|(address, _)| address));
    }
    Ok(report.outcome())
}

pub(crate) async fn get(directory: &Directory, arguments: &Get) -> Result<Outcome, AdminError> {
    let request = ListUsersRequest { name: arguments.name.clone(), ..ListUsersRequest::default() };
    show(directory, &arguments.place, request).await
}

pub(crate) async fn list(directory: &Directory, arguments: &List) -> Result<Outcome, AdminError> {
    let request = ListUsersRequest { filter: arguments.filter.clone(), ..ListUsersRequest::default() };
    show(directory, &arguments.place, request).await
}

async fn show(directory: &Directory, place: &Where, request: ListUsersRequest) -> Result<Outcome, AdminError> {
    let mut report = PerGroup::default();
    for group in directory.groups(place.target()).await? {
        let found = directory.read_group(&group, |mut node, stale| {
            let request = ListUsersRequest { stale, ..request.clone() };
            async move {
                let mut parts = node.list_users(request).await?.into_inner();
                let mut users = Vec::new();
                while let Some(part) = parts.next().await {
                    users.extend(part?.users);
                }
                Ok(users)
            }
        });
        match found.await {
            Ok((address, users)) => {
                report.text += &table(&users);
                report.text += &format!("get user from {address} success.\n");
                report.json.extend(users.iter().map(|user| to_json(&group, user)));
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    Ok(report.outcome())
}

fn table(users: &[User]) -> String {
    // The column stands there for scripts that count columns; what was in it is a secret.
    let mut table = Table::new(&["#UserName", "#Password", "#UserType", "#UserStatus"]);
    for user in users {
        let (kind, status) = words(user);
        table.row(vec![user.name.clone(), "******".to_owned(), kind.to_owned(), status.to_owned()]);
    }
    table.to_string()
}

fn words(user: &User) -> (&'static str, &'static str) {
    (if user.admin { "Super" } else { "Normal" }, if user.disabled { "disable" } else { "enable" })
}

fn to_json(group: &Group, user: &User) -> Value {
    let (kind, status) = words(user);
    json!({
        "brokerName": group.name,
        "username": user.name,
        "userType": kind,
        "userStatus": status,
        "rateMessages": user.rate_messages,
        "rateBytes": user.rate_bytes,
        "version": user.version,
        "createdMs": user.created_ms,
        "updatedMs": user.updated_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_in_columns() {
        let root = User { name: "root".to_owned(), admin: true, ..User::default() };
        let off = User { name: "alice".to_owned(), disabled: true, ..User::default() };
        assert_eq!(
            table(&[off, root]),
            "#UserName  #Password  #UserType  #UserStatus\n\
             alice      ******     Normal     disable\n\
             root       ******     Super      enable\n"
        );
    }
}
