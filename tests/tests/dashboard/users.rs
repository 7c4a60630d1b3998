//! Users and access rules by forms, and the latencies of calls.

use anyhow::{Context, Result, ensure};
use raftmq_tests::browser::Browser;
use raftmq_tests::client::eventually;
use raftmq_tests::cluster::Cluster;

use super::{SHOWN_WITHIN, has};

/// What forms do mqadmin sees, and the other way round.
pub(super) async fn users(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    let fields = [("name", "carol"), ("secret", "c4rol-secret"), ("admin", "false"), ("rate_messages", "50")];
    let answer = browser.submit("/users", "/user/create", &fields).await?;
    has(&answer, &["carol: user stored (RaftNode00)", "Normal", "enabled", "50"])?;
    ensure!(!answer.text.contains("c4rol-secret"), "a secret is never shown");
    // A user that there is already is not made again.
    ensure!(browser.submit("/users", "/user/create", &fields).await?.text.contains("class=\"note bad\""));
    let listed = said(cluster, &["getUser", "-u", "carol"]).await?;
    ensure!(listed.contains("carol") && listed.contains("enable"), "{listed}");

    let page = "/user?name=carol";
    let change = [("name", "carol"), ("admin", "true"), ("disabled", "true"), ("secret", ""), ("rate_messages", "0")];
    has(&browser.submit(page, "/user/update", &change).await?, &["Super", "disabled"])?;
    let rule = |resource, actions, decision| {
        [
            ("user", "carol"),
            ("resource", resource),
            ("actions", actions),
            ("sources", "10.0.0.0/8"),
            ("decision", decision),
            ("policy", "Custom"),
        ]
    };
    has(
        &browser.submit(page, "/acl/put", &rule("Topic:orders", "Pub", "Allow")).await?,
        &["rule stored", "10.0.0.0/8"],
    )?;
    has(&browser.submit(page, "/acl/put", &rule("Group:*", "Sub", "Allow")).await?, &["Topic:orders", "Group:*"])?;
    // A rule for the same resource takes the place of the one that there is.
    browser.submit(page, "/acl/put", &rule("Topic:orders", "All", "Deny")).await?;
    let rules = said(cluster, &["getAcl", "-s", "User:carol", "-o", "json"]).await?;
    let rules: serde_json::Value = serde_json::from_str(&rules)?;
    let of = |resource: &str| {
        let rules = rules[0]["rules"].as_array().cloned().unwrap_or_default();
        rules.into_iter().filter(|rule| rule["resource"] == resource).collect::<Vec<_>>()
    };
    ensure!(of("Topic:orders").len() == 1 && of("Topic:orders")[0]["decision"] == "Deny", "{rules}");
    ensure!(of("Group:*").len() == 1, "{rules}");
    ensure!(
        browser.submit(page, "/acl/put", &rule("nonsense", "Pub", "Allow")).await?.text.contains("class=\"note bad\"")
    );

    let gone = [("user", "carol"), ("resource", "Topic:orders"), ("policy", "Custom")];
    let answer = browser.submit(page, "/acl/delete", &gone).await?;
    has(&answer, &["rule removed", "Group:*"])?;
    ensure!(!answer.words().contains("Deny custom"), "{}", answer.words());
    let wrong = [("name", "carol"), ("confirm", "karol")];
    has(&browser.submit(page, "/user/delete", &wrong).await?, &["Not done: the name was not typed as it is."])?;
    let right = [("name", "carol"), ("confirm", "carol")];
    has(&browser.submit("/users", "/user/delete", &right).await?, &["carol: deleted (RaftNode00)"])?;
    ensure!(browser.get(page).await?.status == 404);
    Ok(())
}

async fn said(cluster: &Cluster, words: &[&str]) -> Result<String> {
    let output = cluster.mqadmin(words).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("it prints text")
}

/// Sends, receives and acknowledgements of the tests before stand on the first page.
pub(super) async fn latencies(browser: &mut Browser) -> Result<()> {
    eventually("the first page says how long calls take", SHOWN_WITHIN, async || {
        let Ok(answer) = browser.page("/").await else { return false };
        let words = answer.words();
        ["Send ", "Receive ", "Acknowledge "].iter().all(|call| {
            let after = words.split("How long calls take").nth(1).unwrap_or_default();
            after.split(call).nth(1).is_some_and(|rest| rest.split("ms").count() > 2)
        })
    })
    .await
}

/// A line that is none admits nobody.
pub(super) async fn admission(browser: &mut Browser) -> Result<()> {
    let answer = browser.submit("/cluster", "/cluster/admit", &[("line", "mqadmin removePeer -l n1")]).await?;
    has(&answer, &["This is no line with mqadmin addPeer or replacePeer"])?;
    let line = "mqadmin replacePeer -c RaftCluster -b RaftNode00 -l n1 --node 7f --disk 00000000000000000000000000000000 --address 127.0.0.1:1";
    let answer = browser.submit("/cluster", "/cluster/admit", &[("line", line)]).await?;
    // One stands on every live page, and is hidden.
    ensure!(answer.text.matches("class=\"note bad\"").count() == 2, "{}", answer.words());
    Ok(())
}
