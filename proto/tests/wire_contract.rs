//! Holds our descriptors of `apache.rocketmq.v2` against `wire-contract.json`, both ways: every message, field,
//! number, label, oneof, enum value and RPC of the contract is ours, and we have none besides.

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::Value;
use std::collections::BTreeSet;

const PACKAGE: &str = "apache.rocketmq.v2";

/// One fact a line, so that a difference reads by itself.
type Facts = BTreeSet<String>;

fn field_fact(message: &str, name: &str, number: i64, kind: &str, label: &str, oneof: &str) -> String {
    format!("message {message}: {label} {kind} {name} = {number} oneof '{oneof}'")
}

fn rpc_fact(service: &str, name: &str, input: &str, output: &str, client: bool, server: bool) -> String {
    format!("service {service}: {name}({input}, stream {client}) -> ({output}, stream {server})")
}

fn contract() -> Facts {
    let text = include_str!("wire-contract.json");
    let contract: Value = serde_json::from_str(text).expect("the contract is JSON");
    assert_eq!(contract["package"], PACKAGE);
    let object = |value: &'_ Value| value.as_object().expect("an object").clone();
    let list = |value: &'_ Value| value.as_array().expect("a list").clone();
    let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut facts = Facts::new();
    for (name, values) in object(&contract["enums"]) {
        for (value, number) in object(&values) {
            facts.insert(format!("enum {name}: {value} = {number}"));
        }
    }
    for (message, fields) in object(&contract["messages"]) {
        facts.insert(format!("message {message}"));
        for field in list(&fields) {
            let number = field["number"].as_i64().expect("a number");
            let label = field["label"].as_str().unwrap_or("singular");
            let oneof = string(&field["oneof"]);
            facts.insert(field_fact(&message, &string(&field["name"]), number, &string(&field["type"]), label, &oneof));
        }
    }
    for (service, rpcs) in object(&contract["services"]) {
        for rpc in list(&rpcs) {
            let flag = |name: &str| rpc[name].as_bool().expect("a flag");
            facts.insert(rpc_fact(
                &service,
                &string(&rpc["name"]),
                &string(&rpc["input"]),
                &string(&rpc["output"]),
                flag("client_streaming"),
                flag("server_streaming"),
            ));
        }
    }
    facts
}

/// A full type name as the contract writes it: without the package, and without the leading dot.
fn short(name: &str) -> String {
    let name = name.trim_start_matches('.');
    name.strip_prefix(PACKAGE).map_or(name, |rest| rest.trim_start_matches('.')).to_owned()
}

fn kind(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|options| options.map_entry())
            && field.type_name().ends_with(&format!(".{}.{}", message.name(), nested.name()))
    });
    if let Some(entry) = entry {
        let of = |name: &str| {
            let field = entry.field.iter().find(|field| field.name() == name).expect("a map entry has key and value");
            kind(field, entry)
        };
        return format!("map<{}, {}>", of("key"), of("value"));
    }
    match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

fn add_enum(facts: &mut Facts, name: &str, values: &EnumDescriptorProto) {
    for value in &values.value {
        facts.insert(format!("enum {name}: {} = {}", value.name(), value.number()));
    }
}

fn add_message(facts: &mut Facts, name: &str, message: &DescriptorProto) {
    facts.insert(format!("message {name}"));
    for field in &message.field {
        let kind = kind(field, message);
        let label = match field.label() {
            _ if kind.starts_with("map<") => "singular",
            Label::Repeated => "repeated",
            _ if field.proto3_optional() => "optional",
            _ => "singular",
        };
        // An optional field sits in a oneof of its own that only exists inside descriptors.
        let oneof = match field.oneof_index {
            Some(index) if !field.proto3_optional() => {
                message.oneof_decl[usize::try_from(index).expect("not negative")].name().to_owned()
            }
            _ => String::new(),
        };
        facts.insert(field_fact(name, field.name(), i64::from(field.number()), &kind, label, &oneof));
    }
    for nested in &message.nested_type {
        if !nested.options.as_ref().is_some_and(|options| options.map_entry()) {
            add_message(facts, &format!("{name}.{}", nested.name()), nested);
        }
    }
    for nested in &message.enum_type {
        add_enum(facts, &format!("{name}.{}", nested.name()), nested);
    }
}

fn ours() -> Facts {
    let set = FileDescriptorSet::decode(raftmq_proto::DESCRIPTORS).expect("our descriptors decode");
    let mut facts = Facts::new();
    for file in set.file.iter().filter(|file| file.package() == PACKAGE) {
        assert_eq!(file.syntax(), "proto3");
        for values in &file.enum_type {
            add_enum(&mut facts, values.name(), values);
        }
        for message in &file.message_type {
            add_message(&mut facts, message.name(), message);
        }
        for service in &file.service {
            for rpc in &service.method {
                facts.insert(rpc_fact(
                    service.name(),
                    rpc.name(),
                    &short(rpc.input_type()),
                    &short(rpc.output_type()),
                    rpc.client_streaming(),
                    rpc.server_streaming(),
                ));
            }
        }
    }
    facts
}

#[test]
fn our_descriptors_are_the_contract() {
    let (contract, ours) = (contract(), ours());
    let missing: Vec<_> = contract.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&contract).collect();
    assert!(missing.is_empty() && extra.is_empty(), "not ours: {missing:#?}\nnot in the contract: {extra:#?}");
    let rpcs = |service: &str| ours.iter().filter(|fact| fact.starts_with(&format!("service {service}:"))).count();
    assert_eq!((rpcs("MessagingService"), rpcs("Admin")), (17, 16));
}
