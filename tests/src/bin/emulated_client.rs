//! A client of ours that behaves as the C++ or the C# client: `emulated-client cpp|csharp SCENARIO ACCESS TOPIC GROUP COUNT`.
//! It says what the programs around the official clients say.

use anyhow::{Result, bail};
use raftmq_tests::emulate::{
    habits,
    scenario::{Task, run},
};

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [client, scenario, access, topic, group, count] = arguments.as_slice() else {
        bail!("usage: emulated-client cpp|csharp SCENARIO ACCESS TOPIC GROUP COUNT");
    };
    let task = Task {
        habits: habits(client)?,
        access: access.clone(),
        topic: topic.clone(),
        group: group.clone(),
        count: count.parse()?,
    };
    let result = run(scenario, task).await?;
    println!("RESULT {result}");
    // What still runs need not end first.
    std::process::exit(0)
}
