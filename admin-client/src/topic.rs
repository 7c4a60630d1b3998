//! Topics in all broker groups of a cluster.

use crate::directory::{Directory, Group};
use crate::error::AdminError;
use raftmq_proto::admin::{PutTopicRequest, PutTopicResponse};

/// What a broker group made of a change: the admin address of the node that made it and its answer, or why not.
pub type Put = (String, Result<(String, PutTopicResponse), AdminError>);

/// Creates a topic or changes it in each of these broker groups, by name; they agree on who keeps its message groups,
/// whatever the request says of that.
pub async fn put_topic(directory: &Directory, groups: &[Group], mut request: PutTopicRequest) -> Vec<Put> {
    request.fifo_owners = groups.iter().map(|group| group.name.clone()).collect();
    request.fifo_owners.sort_unstable();
    let mut outcomes = Vec::new();
    for group in groups {
        let put = directory.on_group(group, |mut node| {
            let request = request.clone();
            async move { Ok(node.put_topic(request).await?.into_inner()) }
        });
        let put = put.await;
        if let Ok((_, answer)) = &put {
            let owners = answer.topic.as_ref().map(|topic| topic.fifo_owners.clone()).unwrap_or_default();
            // Whatever the name servers have heard of it yet, the next broker group takes the same.
            request.fifo_owners = if owners.is_empty() { vec![group.name.clone()] } else { owners };
        }
        outcomes.push((group.name.clone(), put));
    }
    outcomes
}
