//! `createAcl`, `updateAcl`, `deleteAcl`, `getAcl`, `listAcl`: what users may do where access control is on.

use super::{PerGroup, Where};
use crate::confirm::Consent;
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_proto::admin::{Acl, AclRule, DeleteAclRequest, ListAclsRequest, PutAclRequest};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

/// Let a user do something, or forbid it.
///
/// Of several rules that match a call, the one with the most exact resource decides, and of two that are equally exact
/// the one that denies.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin createAcl -n localhost:9876 -c DefaultCluster -s User:alice -r Topic:orders,Group:billing* -a Pub,Sub -i 192.168.0.0/16 -d Allow"
)]
pub(crate) struct Create {
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Change what a user may do: rules for the same resources are replaced, others stay.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin updateAcl -n localhost:9876 -c DefaultCluster -s User:alice -r Topic:orders -a Pub -d Deny"
)]
pub(crate) struct Update {
    #[command(flatten)]
    rules: Rules,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// One rule for each resource.
#[derive(Debug, Args)]
struct Rules {
    #[command(flatten)]
    place: Where,
    /// Whose rules: User:NAME.
    #[arg(short = 's', long = "subject")]
    subject: String,
    /// Topic:NAME, Group:NAME, with `*` at the end for all names that begin so; `*` for everything.
    #[arg(short = 'r', long = "resources", value_delimiter = ',', required = true)]
    resources: Vec<String>,
    /// Pub, Sub, All; Create, Update, Delete, Get and List are kept, and mean nothing to clients.
    #[arg(short = 'a', long = "actions", value_delimiter = ',', required = true)]
    actions: Vec<String>,
    /// Addresses and networks that the rule is for; left out, all.
    #[arg(short = 'i', long = "sourceIp", value_delimiter = ',')]
    sources: Vec<String>,
    /// Allow or Deny.
    #[arg(short = 'd', long = "decision")]
    decision: String,
    /// Custom, or Default for rules that count where no other matches.
    #[arg(short = 't', long = "policyType", default_value = "Custom")]
    policy: String,
}

/// Take rules away.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin deleteAcl -n localhost:9876 -c DefaultCluster -s User:alice -r Topic:orders")]
pub(crate) struct Delete {
    #[command(flatten)]
    place: Where,
    /// Whose rules: User:NAME.
    #[arg(short = 's', long = "subject")]
    subject: String,
    /// Only the rules of this resource.
    #[arg(short = 'r', long = "resources", default_value = "")]
    resource: String,
    /// Only the rules of this policy: Custom or Default.
    #[arg(short = 't', long = "policyType", default_value = "")]
    policy: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Show what a user may do.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getAcl -n localhost:9876 -c DefaultCluster -s User:alice")]
pub(crate) struct Get {
    #[command(flatten)]
    place: Where,
    /// Whose rules: User:NAME.
    #[arg(short = 's', long = "subject")]
    subject: String,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// List what users may do.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin listAcl -n localhost:9876 -c DefaultCluster")]
pub(crate) struct List {
    #[command(flatten)]
    place: Where,
    /// Only subjects that contain this.
    #[arg(short = 's', long = "subject", default_value = "")]
    subject: String,
    /// Only rules whose resource contains this.
    #[arg(short = 'r', long = "resource", default_value = "")]
    resource: String,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn create(directory: &Directory, arguments: &Create) -> Result<Outcome, AdminError> {
    put(directory, &arguments.rules, false).await
}

pub(crate) async fn update(directory: &Directory, arguments: &Update) -> Result<Outcome, AdminError> {
    put(directory, &arguments.rules, true).await
}

async fn put(directory: &Directory, rules: &Rules, update: bool) -> Result<Outcome, AdminError> {
    let rule = |resource: &String| AclRule {
        policy: rules.policy.clone(),
        resource: resource.trim().to_owned(),
        actions: rules.actions.clone(),
        sources: rules.sources.iter().map(|source| source.trim().to_owned()).collect(),
        decision: rules.decision.clone(),
    };
    let request =
        PutAclRequest { subject: rules.subject.clone(), rules: rules.resources.iter().map(rule).collect(), update };
    let verb = if update { "update" } else { "create" };
    let mut report = PerGroup::default();
    for group in directory.groups(rules.place.target()).await? {
        let put = directory.on_group(&group, |mut node| {
            let request = request.clone();
            async move { Ok(node.put_acl(request).await?.into_inner()) }
        });
        report.did(&group, verb, "acl", &rules.subject, put.await.map(|(address, _)| address));
    }
    Ok(report.outcome())
}

pub(crate) async fn delete(directory: &Directory, arguments: &Delete) -> Result<Outcome, AdminError> {
    let of = if arguments.resource.is_empty() { "all resources" } else { &arguments.resource };
    arguments.consent.ask(&format!("Access rules of {} for {of} are deleted.", arguments.subject))?;
    let mut report = PerGroup::default();
    for group in directory.groups(arguments.place.target()).await? {
        let deleted = directory.on_group(&group, |mut node| {
            let request = DeleteAclRequest {
                subject: arguments.subject.clone(),
                resource: arguments.resource.clone(),
                policy: arguments.policy.clone(),
            };
            async move { Ok(node.delete_acl(request).await?.into_inner()) }
        });
        report.did(&group, "delete", "acl", &arguments.subject, deleted.await.map(|(address, _)| address));
    }
    Ok(report.outcome())
}

pub(crate) async fn get(directory: &Directory, arguments: &Get) -> Result<Outcome, AdminError> {
    let request = ListAclsRequest { subject: arguments.subject.clone(), ..ListAclsRequest::default() };
    show(directory, &arguments.place, "get acl", request).await
}

pub(crate) async fn list(directory: &Directory, arguments: &List) -> Result<Outcome, AdminError> {
    let request = ListAclsRequest {
        subject_filter: arguments.subject.clone(),
        resource_filter: arguments.resource.clone(),
        ..ListAclsRequest::default()
    };
    show(directory, &arguments.place, "list acls", request).await
}

async fn show(
    directory: &Directory,
    place: &Where,
    did: &str,
    request: ListAclsRequest,
) -> Result<Outcome, AdminError> {
    let mut report = PerGroup::default();
    for group in directory.groups(place.target()).await? {
        let found = directory.read_group(&group, |mut node, stale| {
            let request = ListAclsRequest { stale, ..request.clone() };
            async move {
                let mut parts = node.list_acls(request).await?.into_inner();
                let mut acls = Vec::new();
                while let Some(part) = parts.next().await {
                    acls.extend(part?.acls);
                }
                Ok(acls)
            }
        });
        match found.await {
            Ok((address, acls)) => {
                report.text += &table(&acls);
                report.text += &format!("{did} from {address} success.\n");
                report.json.extend(acls.iter().map(|acl| to_json(&group, acl)));
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    Ok(report.outcome())
}

fn table(acls: &[Acl]) -> String {
    let mut table = Table::new(&["#Subject", "#PolicyType", "#Resource", "#Actions", "#SourceIp", "#Decision"]);
    for acl in acls {
        for rule in &acl.rules {
            table.row(vec![
                acl.subject.clone(),
                rule.policy.clone(),
                rule.resource.clone(),
                rule.actions.join(","),
                rule.sources.join(","),
                rule.decision.clone(),
            ]);
        }
    }
    table.to_string()
}

fn to_json(group: &Group, acl: &Acl) -> Value {
    let rule = |rule: &AclRule| {
        json!({
            "policyType": rule.policy,
            "resource": rule.resource,
            "actions": rule.actions,
            "sourceIps": rule.sources,
            "decision": rule.decision,
        })
    };
    json!({
        "brokerName": group.name,
        "subject": acl.subject,
        "rules": acl.rules.iter().map(rule).collect::<Vec<_>>(),
        "version": acl.version,
        "createdMs": acl.created_ms,
        "updatedMs": acl.updated_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_in_columns() {
        let rule = AclRule {
            policy: "Custom".to_owned(),
            resource: "Topic:orders".to_owned(),
            actions: vec!["Pub".to_owned(), "Sub".to_owned()],
            sources: Vec::new(),
            decision: "Allow".to_owned(),
        };
        let acl = Acl { subject: "User:alice".to_owned(), rules: vec![rule], ..Acl::default() };
        assert_eq!(
            table(&[acl]),
            "#Subject    #PolicyType  #Resource     #Actions  #SourceIp  #Decision\n\
             User:alice  Custom       Topic:orders  Pub,Sub   -          Allow\n"
        );
    }
}
