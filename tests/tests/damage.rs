//! G6: whatever part of the data directory is damaged, the broker starts, shows no wrong message, says what is gone,
//! and goes on.

use std::path::{Path, PathBuf};

use headwater_tests::chance::{Chance, rounds};
use headwater_tests::copy::whole;
use headwater_tests::gateway::Gateway;
use headwater_tests::payload::Mark;
use headwater_tests::publisher::Publisher;
use headwater_tests::snapshot;
use serde_json::Value;

/// Every file below `dir` with something in it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("our own directory can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if entry.metadata().is_ok_and(|metadata| metadata.len() > 0) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Damages a file as a bad card does.
fn damage(path: &Path, chance: &mut Chance) -> String {
    let mut bytes = std::fs::read(path).expect("our own file can be read");
    if chance.below(5) == 0 {
        std::fs::remove_file(path).expect("our own file can be removed");
        return "removed".to_owned();
    }
    let at = usize::try_from(chance.below(bytes.len() as u64)).expect("a position in memory");
    let what = match chance.below(4) {
        0 => {
            bytes[at] ^= 1 << chance.below(8);
            format!("flipped a bit of byte {at}")
        }
        1 => {
            let end = bytes.len().min(at + 4096);
            bytes[at..end].fill(0);
            format!("zeroed {at}..{end}")
        }
        2 => {
            let end = bytes.len().min(at + 512);
            bytes[at..end].iter_mut().for_each(|byte| *byte = chance.below(256).to_le_bytes()[0]);
            format!("overwrote {at}..{end}")
        }
        _ => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
    };
    std::fs::write(path, bytes).expect("our own file can be written");
    what
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory in our own can be made");
    for entry in std::fs::read_dir(from).expect("our own directory can be read").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("our own file can be copied");
        }
    }
}

#[tokio::test]
async fn a_damaged_file_costs_what_it_held_and_no_more_in_many_rounds() {
    const MESSAGES: u64 = 15_000;
    let mut chance = Chance::new();
    let make = || Gateway::new("gw-1").stream("s", &["plant/#"]);
    // Enough for some epochs, and something in the staging files.
    let sound = make();
    let broker = sound.start().await;
    let device = Publisher { topics: vec!["plant/d".to_owned()], ..Publisher::new("d") };
    device.publish(broker.mqtt(), 1, MESSAGES).await;
    broker.kill();

    let verified = sound.command(&["store", "verify"]);
    assert!(verified.success().ends_with("sound\n"));
    for _ in 0..rounds(30) {
        let gateway = make();
        copy(&sound.data_dir(), &gateway.data_dir());
        let files = files(&gateway.data_dir());
        let victim = &files[usize::try_from(chance.below(files.len() as u64)).expect("a position in memory")];
        let what = damage(victim, &mut chance);
        // Shown only if the test fails.
        eprintln!("{}: {what}", victim.display());
        let untouched = snapshot::of(&gateway.data_dir());
        let verified = gateway.command(&["store", "verify", "--json"]);
        assert_eq!(snapshot::of(&gateway.data_dir()), untouched, "verifying changes nothing");

        // Repairing does what starting does, and leaves nothing to be moved or made again.
        let repaired = make();
        copy(&gateway.data_dir(), &repaired.data_dir());
        let text = repaired.command(&["store", "repair"]).success();
        assert!(text.ends_with("repaired\n"), "{text}");
        let again = repaired.command(&["store", "repair"]).success();
        assert!(!again.contains("aside") && !again.contains("FORMAT"), "{again}");
        let repaired: Value = json(&repaired.command(&["store", "verify", "--json"]).stdout);

        let broker = gateway.start().await;
        let before = whole(&broker, "s", 1).await;
        // Every sequence is there or said to be gone, once.
        let mut parts: Vec<(u64, u64)> = before.messages.iter().map(|message| (message.seq, message.seq)).collect();
        parts.extend(before.gaps.iter().map(|gap| (gap.first, gap.last)));
        parts.sort_unstable();
        let mut next = 1;
        for (first, last) in parts {
            assert_eq!(first, next, "gaps: {:?}", before.gaps);
            next = last + 1;
        }
        // The end of a staging file may be gone unnoticed: it looks like one that was never written.
        let staging = victim.file_name().is_some_and(|name| name.to_string_lossy().starts_with("staging"));
        assert!(next == MESSAGES + 1 || (staging && next <= MESSAGES), "it ends at {next}, gaps: {:?}", before.gaps);
        for message in &before.messages {
            let mark = Mark::of(&message.payload).unwrap_or_else(|e| panic!("sequence {}: {e}", message.seq));
            assert_eq!((mark.number, message.topic.as_str()), (message.seq, "plant/d"));
        }
        assert!(before.gaps.iter().all(|gap| gap.reason == "damage"), "{:?}", before.gaps);
        // Verifying found the same, without a broker.
        let found = json(&verified.stdout);
        for found in [&found, &repaired] {
            let stream = found["streams"].as_array().and_then(|streams| streams.iter().find(|one| one["name"] == "s"));
            let msgs = stream.map_or(0, |stream| stream["msgs"].as_u64().unwrap_or(0));
            assert_eq!(msgs, before.messages.len() as u64, "{found}");
        }
        assert!(before.gaps.is_empty() || (verified.code == Some(1) && found["sound"] == false), "{verified:?}");
        // Status counts what is gone.
        let status = broker.status().await;
        let gone: u64 = before.gaps.iter().map(|gap| gap.last - gap.first + 1).sum();
        assert_eq!(status["streams"][0]["damaged_msgs"], gone, "{status}");

        // It goes on behind everything that it shows.
        device.publish(broker.mqtt(), MESSAGES + 1, 100).await;
        let after = whole(&broker, "s", 1).await;
        let (old, new) = after.messages.split_at(before.messages.len());
        assert!(old == before.messages, "what was shown before is another message now");
        assert_eq!(new.iter().map(|message| message.seq).collect::<Vec<_>>(), (next..next + 100).collect::<Vec<_>>());
    }
}
