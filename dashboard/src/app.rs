//! What all visits share, and what one visit is.

use crate::access::{Note, Role, Session, Sessions};
use crate::config::Config;
use crate::form::Fields;
use crate::phrase::{Language, Phrase};
use crate::samples::Samples;
use maud::Markup;
use raftmq_admin_client::connect::Token;
use raftmq_admin_client::directory::{Directory, Group};
use raftmq_admin_client::error::AdminError;
use raftmq_admin_client::tls;
use raftmq_proto::admin::Topic;
use raftmq_proto::signature::Credentials;
use raftmq_server::dial::Dialer;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_stream::StreamExt as _;
use tonic::Code;

/// What all visits share.
pub(crate) struct App {
    pub config: Config,
    pub sessions: Sessions,
    pub samples: Samples,
    dialer: Dialer,
}

impl App {
    pub(crate) fn new(config: Config) -> Result<App, AdminError> {
        // A token that no header holds is a mistake of the configuration, not of each call.
        let dialer = tls::dialer(config.cluster_tls.clone())?;
        Token::new(config.admin_token.as_deref(), None, "dashboard", dialer.clone())?;
        Ok(App { config, sessions: Sessions::new(), samples: Samples::default(), dialer })
    }

    /// The way to the cluster for whoever has these keys.
    pub(crate) fn directory(&self, credentials: Option<Credentials>, user: &str) -> Result<Directory, AdminError> {
        let caller = if user.is_empty() { "dashboard".to_owned() } else { format!("dashboard/{user}") };
        Ok(Directory {
            name_servers: self.config.name_servers.clone(),
            token: Token::new(self.config.admin_token.as_deref(), credentials, &caller, self.dialer.clone())?,
            // Pages say for themselves when a group has no leader.
            notice: |_| {},
        })
    }

    /// The broker groups: as seen a moment ago, or else asked for with the dashboard's own keys where it has some, since
    /// name servers know one user only; where nobody answers, as they were last.
    pub(crate) async fn groups(&self, credentials: Option<Credentials>) -> Result<Vec<Group>, AdminError> {
        if let Some(groups) = self.samples.fresh_groups() {
            return Ok(groups);
        }
        let own = self.config.credentials.clone().or(credentials);
        match self.directory(own, "")?.all().await {
            Ok(groups) => Ok(groups),
            Err(error) => self.samples.last_groups().ok_or(error),
        }
    }

    /// Nothing is shown to those who have not signed in: the cluster wants it, or the dashboard would lend its own keys.
    pub(crate) fn wants_login(&self) -> bool {
        self.config.credentials.is_some() || self.samples.wants_login()
    }
}

/// Why a page cannot be shown, or a change was not made.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The visitor must sign in.
    SignIn,
    /// There is no such page, or what it is about does not exist.
    Missing(String),
    /// The cluster did not do it, or the form makes no sense; a sentence.
    Refused(String),
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Problem {
        match &error {
            AdminError::Refused { code: Code::Unauthenticated, .. } => Problem::SignIn,
            AdminError::Refused { code: Code::NotFound, .. } => Problem::Missing(error.to_string()),
            _ => Problem::Refused(error.to_string()),
        }
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Problem {
        Problem::Refused(text)
    }
}

/// A page, without what stands around every page.
pub(crate) struct Page {
    pub title: String,
    /// The script looks every 2 s whether what is marked so has changed.
    pub live: bool,
    pub body: Markup,
}

impl Page {
    pub(crate) fn new(title: impl Into<String>, body: Markup) -> Page {
        Page { title: title.into(), live: false, body }
    }

    pub(crate) fn live(title: impl Into<String>, body: Markup) -> Page {
        Page { title: title.into(), live: true, body }
    }
}

/// One request.
pub(crate) struct Visit {
    pub app: Arc<App>,
    pub language: Language,
    /// The browser's id.
    pub id: String,
    pub session: Session,
    pub path: String,
    pub query: Fields,
    pub notes: Vec<Note>,
}

impl Visit {
    pub(crate) fn t(&self, phrase: Phrase) -> &'static str {
        phrase.text(self.language)
    }

    /// Whether forms that change something are shown and taken.
    pub(crate) fn may_change(&self) -> bool {
        !self.app.config.read_only && self.session.role != Role::Viewer
    }

    /// The way to the cluster with this visitor's keys.
    pub(crate) fn directory(&self) -> Result<Directory, Problem> {
        Ok(self.app.directory(self.session.credentials.clone(), &self.session.user)?)
    }

    pub(crate) async fn groups(&self) -> Result<Vec<Group>, Problem> {
        Ok(self.app.groups(self.session.credentials.clone()).await?)
    }

    /// A broker group by its name and its cluster's.
    pub(crate) async fn group(&self, cluster: &str, name: &str) -> Result<Group, Problem> {
        let groups = self.groups().await?;
        let found = groups.into_iter().find(|group| group.cluster == cluster && group.name == name);
        found.ok_or_else(|| Problem::Missing(format!("{}: {cluster} {name}", self.t(Phrase::NoSuchGroup))))
    }

    /// This page with its query, where forms come back to.
    pub(crate) fn here(&self) -> String {
        match self.query.with("", "") {
            query if query.is_empty() => self.path.clone(),
            query => format!("{}?{query}", self.path),
        }
    }
}

/// Topics of all broker groups by name, each as every broker group has it.
pub(crate) async fn topics(
    directory: &Directory,
    groups: &[Group],
) -> Result<BTreeMap<String, Vec<(String, Topic)>>, AdminError> {
    let mut topics: BTreeMap<String, Vec<(String, Topic)>> = BTreeMap::new();
    for group in groups {
        let (_, listed) = directory
            .read_group(group, |mut node, stale| {
                let request = raftmq_proto::admin::ListTopicsRequest { stale };
                async move {
                    let mut parts = node.list_topics(request).await?.into_inner();
                    let mut topics = Vec::new();
                    while let Some(part) = parts.next().await {
                        topics.extend(part?.topics);
                    }
                    Ok(topics)
                }
            })
            .await?;
        for topic in listed {
            topics.entry(topic.name.clone()).or_default().push((group.name.clone(), topic));
        }
    }
    Ok(topics)
}

/// What each broker group answered to one question; those without what was asked for are left out.
pub(crate) fn present<T>(answer: Result<T, AdminError>) -> Result<Option<T>, AdminError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(AdminError::Refused { code: Code::NotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
