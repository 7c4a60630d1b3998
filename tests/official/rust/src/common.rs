//! What every scenario is made of: the client's parts with the settings of this run, and messages whose bodies are their
//! sequence numbers.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{MessageBuilder, MessageView};
use rocketmq::{Producer, SimpleConsumer};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a program was asked to do.
#[derive(Clone)]
pub struct Task {
    pub access: String,
    pub topic: String,
    pub group: String,
    pub count: usize,
}

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub fn client_option(access: &str) -> ClientOption {
    let mut option = ClientOption::default();
    option.set_access_url(access);
    option.set_enable_tls(false);
    option.set_long_polling_timeout(Duration::from_secs(5));
    option
}

pub async fn producer(access: &str, topic: &str) -> Result<Producer, Failure> {
    let mut option = ProducerOption::default();
    option.set_topics(vec![topic]);
    let mut producer = Producer::new(option, client_option(access))?;
    producer.start().await?;
    Ok(producer)
}

pub async fn consumer(access: &str, topic: &str, group: &str) -> Result<SimpleConsumer, Failure> {
    let mut option = SimpleConsumerOption::default();
    option.set_topics(vec![topic]);
    option.set_consumer_group(group);
    let mut consumer = SimpleConsumer::new(option, client_option(access))?;
    consumer.start().await?;
    Ok(consumer)
}

pub fn everything() -> FilterExpression {
    FilterExpression::new(FilterType::Tag, "*")
}

/// Sends `count` messages with `workers` calls in flight; the body is the sequence number.
pub async fn send_all(producer: Arc<Producer>, topic: &str, count: usize, workers: usize) -> Result<(), Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..workers {
        let (producer, next, topic) = (producer.clone(), next.clone(), topic.to_string());
        tasks.push(tokio::spawn(async move {
            loop {
                let sequence = next.fetch_add(1, Ordering::Relaxed);
                if sequence >= count {
                    return Ok::<(), Failure>(());
                }
                producer.send(numbered(MessageBuilder::builder(), &topic, sequence).build()?).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// The message whose body is its sequence number.
pub fn numbered(builder: MessageBuilder, topic: &str, sequence: usize) -> MessageBuilder {
    builder
        .set_topic(topic)
        .set_tag("official")
        .set_keys(vec![format!("key-{sequence}")])
        .set_body(sequence.to_string().into_bytes())
}

pub fn sequence_of(message: &MessageView) -> Result<usize, Failure> {
    Ok(std::str::from_utf8(message.body())?.parse()?)
}

/// Waits until `condition` holds, and gives up after [`PATIENCE`].
pub async fn until<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
