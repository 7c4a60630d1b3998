//! Compiles every contract under this folder with protox, so that no protoc is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Asked when it runs and not when it is compiled: clones in different folders may share one build folder.
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let mut files = Vec::new();
    for dir in ["apache/rocketmq/v2", "internal", "raftmq/admin/v1"] {
        println!("cargo::rerun-if-changed={}", root.join(dir).display());
        let mut found: Vec<PathBuf> = std::fs::read_dir(root.join(dir))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        found.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
        found.sort();
        files.extend(found);
    }
    let descriptors = protox::compile(&files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // Replicated rows are encodings: every replica must write the same bytes, so no map may be a hash map.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".raftmq")
        // They hold secrets; `src/signature.rs` says how they are shown.
        .skip_debug([".raftmq.command.v1.User", ".raftmq.command.v1.PutUser", ".raftmq.admin.v1.PutUserRequest"])
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
