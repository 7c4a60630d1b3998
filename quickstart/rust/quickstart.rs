//! Sends one message and receives it. Another address can be the argument.

use std::time::Duration;

use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::MessageBuilder;
use rocketmq::{Producer, SimpleConsumer};

fn client() -> ClientOption {
    let mut option = ClientOption::default();
    option.set_access_url(std::env::args().nth(1).unwrap_or("127.0.0.1:8081".into()));
    option.set_enable_tls(false);
    option
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut option = ProducerOption::default();
    option.set_topics(vec!["quickstart"]);
    let mut producer = Producer::new(option, client())?;
    producer.start().await?;
    let message = MessageBuilder::builder().set_topic("quickstart").set_body(b"hello from Rust".to_vec()).build()?;
    println!("sent {}", producer.send(message).await?.message_id());

    let mut option = SimpleConsumerOption::default();
    option.set_topics(vec!["quickstart"]);
    option.set_consumer_group("quickstart-rust");
    let mut consumer = SimpleConsumer::new(option, client())?;
    consumer.start().await?;
    let everything = FilterExpression::new(FilterType::Tag, "*");
    let mut came = false;
    while !came {
        for message in consumer.receive_with("quickstart", &everything, 16, Duration::from_secs(30)).await? {
            println!("received {}", String::from_utf8_lossy(message.body()));
            consumer.ack(&message).await?;
            came |= message.body() == b"hello from Rust";
        }
    }
    Ok(())
}
