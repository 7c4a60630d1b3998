//! Users and access rules: change, list. Secrets come in and never go out.

use super::door::Caller;
use super::{AdminService, Parts, in_parts};
use crate::access::rule::ACTIONS;
use crate::store::access::{acl, acls, user, users};
use raftmq_proto::admin::{
    Acl, AclRule, DeleteAclRequest, DeleteAclResponse, DeleteUserRequest, DeleteUserResponse, ListAclsRequest,
    ListAclsResponse, ListUsersRequest, ListUsersResponse, PutAclRequest, PutAclResponse, PutUserRequest,
    PutUserResponse, User,
};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{self, AclAction, DeleteAcl, DeleteUser, PutAcl, PutMode, PutUser};
use tonic::Status;

/// The policy of rules that come first, and of those that count where no other matches.
const POLICIES: [&str; 2] = ["Custom", "Default"];
const DECISIONS: [&str; 2] = ["Allow", "Deny"];

impl AdminService {
    pub(super) async fn put_user(&self, request: PutUserRequest, caller: &Caller) -> Result<PutUserResponse, Status> {
        let name = request.name.clone();
        let what = if request.update { "user changed" } else { "user created" };
        let put = Kind::PutUser(PutUser {
            name: request.name,
            secret: request.secret,
            admin: request.admin,
            disabled: request.disabled,
            mode: mode(request.update).into(),
            rate_messages: request.rate_messages,
            rate_bytes: request.rate_bytes,
        });
        self.change(what, &name, caller, put).await?;
        Ok(PutUserResponse { broker_group: self.broker_group() })
    }

    pub(super) async fn delete_user(
        &self,
        request: DeleteUserRequest,
        caller: &Caller,
    ) -> Result<DeleteUserResponse, Status> {
        let name = request.name.clone();
        self.change("user deleted", &name, caller, Kind::DeleteUser(DeleteUser { name: request.name })).await?;
        Ok(DeleteUserResponse { broker_group: self.broker_group() })
    }

    pub(super) async fn list_users(&self, request: ListUsersRequest) -> Result<Parts<ListUsersResponse>, Status> {
        self.catch_up(request.stale).await?;
        let rows = self
            .read(move |state| {
                if request.name.is_empty() {
                    let filter = request.filter;
                    return Ok(Some(users(state)?.into_iter().filter(|user| user.name.contains(&filter)).collect()));
                }
                Ok(user(state, &request.name)?.map(|user| vec![user]))
            })
            .await?;
        let rows: Vec<command::User> = rows.ok_or_else(|| Status::not_found("there is no such user"))?;
        let broker_group = self.broker_group();
        Ok(in_parts(rows, move |users| ListUsersResponse {
            broker_group: broker_group.clone(),
            users: users.into_iter().map(shown_user).collect(),
        }))
    }

    pub(super) async fn put_acl(&self, request: PutAclRequest, caller: &Caller) -> Result<PutAclResponse, Status> {
        let rules = request.rules.into_iter().map(rule).collect::<Result<Vec<_>, _>>();
        let rules = rules.map_err(Status::invalid_argument)?;
        let what =
            format!("{} {}", request.subject, rules.iter().map(shown_rule).map(words).collect::<Vec<_>>().join("; "));
        let put = Kind::PutAcl(PutAcl { subject: request.subject, rules, mode: mode(request.update).into() });
        self.change("access rules changed", &what, caller, put).await?;
        Ok(PutAclResponse { broker_group: self.broker_group() })
    }

    pub(super) async fn delete_acl(
        &self,
        request: DeleteAclRequest,
        caller: &Caller,
    ) -> Result<DeleteAclResponse, Status> {
        let default_policy = match request.policy.as_str() {
            "" => None,
            policy => Some(word(POLICIES, policy, "policy").map_err(Status::invalid_argument)?),
        };
        let what = format!("{} {}", request.subject, request.resource);
        let delete = DeleteAcl { subject: request.subject, resource: request.resource, default_policy };
        self.change("access rules deleted", what.trim_end(), caller, Kind::DeleteAcl(delete)).await?;
        Ok(DeleteAclResponse { broker_group: self.broker_group() })
    }

    pub(super) async fn list_acls(&self, request: ListAclsRequest) -> Result<Parts<ListAclsResponse>, Status> {
        self.catch_up(request.stale).await?;
        let (one, subject_filter) = (request.subject, request.subject_filter);
        let rows = self
            .read(move |state| {
                if one.is_empty() {
                    let rows = acls(state)?.into_iter().filter(|acl| acl.subject.contains(&subject_filter));
                    return Ok(Some(rows.collect()));
                }
                Ok(acl(state, &one)?.map(|acl| vec![acl]))
            })
            .await?;
        let rows: Vec<command::Acl> = rows.ok_or_else(|| Status::not_found("there are no such access rules"))?;
        let mut shown: Vec<Acl> = rows.into_iter().map(shown_acl).collect();
        for acl in &mut shown {
            acl.rules.retain(|rule| rule.resource.contains(&request.resource_filter));
        }
        shown.retain(|acl| !acl.rules.is_empty());
        let broker_group = self.broker_group();
        Ok(in_parts(shown, move |acls| ListAclsResponse { broker_group: broker_group.clone(), acls }))
    }
}

fn mode(update: bool) -> PutMode {
    if update { PutMode::Update } else { PutMode::Create }
}

fn shown_user(user: command::User) -> User {
    User {
        name: user.name,
        admin: user.admin,
        disabled: user.disabled,
        version: user.version,
        created_ms: user.created_ms,
        updated_ms: user.updated_ms,
        rate_messages: user.rate_messages,
        rate_bytes: user.rate_bytes,
    }
}

fn shown_acl(acl: command::Acl) -> Acl {
    Acl {
        subject: acl.subject,
        rules: acl.rules.iter().map(shown_rule).collect(),
        version: acl.version,
        created_ms: acl.created_ms,
        updated_ms: acl.updated_ms,
    }
}

fn shown_rule(rule: &command::AclRule) -> AclRule {
    let name =
        |action: AclAction| ACTIONS.iter().find(|(_, known)| *known == action).map_or("Unknown", |(name, _)| name);
    AclRule {
        policy: POLICIES[usize::from(rule.default_policy)].to_owned(),
        resource: rule.resource.clone(),
        actions: rule.actions().map(|action| name(action).to_owned()).collect(),
        sources: rule.sources.clone(),
        decision: DECISIONS[usize::from(rule.deny)].to_owned(),
    }
}

/// For the log.
fn words(rule: AclRule) -> String {
    let sources = if rule.sources.is_empty() { String::new() } else { format!(" from {}", rule.sources.join(",")) };
    format!("{} {} {}{sources}", rule.decision, rule.actions.join(","), rule.resource)
}

fn rule(rule: AclRule) -> Result<command::AclRule, String> {
    let mut actions = Vec::with_capacity(rule.actions.len());
    for action in &rule.actions {
        let known = ACTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(action.trim()));
        let names = || ACTIONS.map(|(name, _)| name).join(", ");
        actions.push(known.ok_or_else(|| format!("the action {action:?} is none of {}", names()))?.1.into());
    }
    Ok(command::AclRule {
        default_policy: word(POLICIES, &rule.policy, "policy")?,
        resource: rule.resource,
        actions,
        sources: rule.sources,
        deny: word(DECISIONS, &rule.decision, "decision")?,
    })
}

/// Whether the text is the second of two words; empty is the first.
fn word(words: [&str; 2], text: &str, what: &str) -> Result<bool, String> {
    match text.trim() {
        first if first.is_empty() || first.eq_ignore_ascii_case(words[0]) => Ok(false),
        second if second.eq_ignore_ascii_case(words[1]) => Ok(true),
        other => Err(format!("the {what} {other:?} is neither {} nor {}", words[0], words[1])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_in_words_and_back() {
        let given = AclRule {
            policy: "default".to_owned(),
            resource: "Topic:orders".to_owned(),
            actions: vec!["pub".to_owned(), " SUB".to_owned()],
            sources: vec!["10.0.0.1".to_owned()],
            decision: "deny".to_owned(),
        };
        let shown = shown_rule(&rule(given).expect("sound"));
        assert_eq!((shown.policy.as_str(), shown.decision.as_str()), ("Default", "Deny"));
        assert_eq!(words(shown), "Deny Pub,Sub Topic:orders from 10.0.0.1");
        let wrong = |rule: AclRule| super::rule(rule).expect_err("refused");
        let good = AclRule { actions: vec!["All".to_owned()], ..AclRule::default() };
        assert!(rule(good.clone()).is_ok());
        assert!(wrong(AclRule { actions: vec!["Write".to_owned()], ..good.clone() }).contains("none of All, Pub"));
        assert!(wrong(AclRule { decision: "maybe".to_owned(), ..good.clone() }).contains("Allow nor Deny"));
        assert!(wrong(AclRule { policy: "mine".to_owned(), ..good }).contains("Custom nor Default"));
    }
}
