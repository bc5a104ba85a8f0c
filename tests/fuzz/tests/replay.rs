//! Everything that the fuzzer ever found worth keeping, once more.

use std::path::{Path, PathBuf};

use headwater_fuzz::{Check, TARGETS};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn replay(target: &str) {
    let check: Check = TARGETS.iter().find(|(name, _)| *name == target).expect("listed").1;
    let corpus = folder("corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&corpus)
        .unwrap_or_else(|e| panic!("{}: {e}", corpus.display()))
        .map(|entry| entry.expect("the corpus can be read").path())
        .collect();
    files.sort();
    assert!(files.len() > 5, "the corpus of {target} is gone");
    for file in files {
        let bytes = std::fs::read(&file).expect("the corpus can be read");
        if let Err(panic) = std::panic::catch_unwind(|| check(&bytes)) {
            eprintln!("{} breaks {target}", file.display());
            std::panic::resume_unwind(panic);
        }
    }
}

macro_rules! replays {
    ($($name:ident $target:ident),*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($target));
            }
        )*

        /// A corpus without a test, or a target without one of both, would be looked at by nobody.
        #[test]
        fn every_target_is_replayed_and_has_its_file() {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($target)),*]);
            for (folder_name, end) in [("corpus", ""), ("targets/fuzz_targets", ".rs")] {
                let entries = std::fs::read_dir(folder(folder_name)).expect("the folder is there");
                let mut found: Vec<String> = entries
                    .map(|entry| entry.expect("the folder can be read").file_name().to_string_lossy().into_owned())
                    .collect();
                found.sort();
                assert_eq!(found, names.iter().map(|name| format!("{name}{end}")).collect::<Vec<_>>());
            }
        }
    };
}

replays! {
    access_control_lists acl,
    configurations config,
    packets decode,
    tokens jwt,
    bytes_on_disk log,
    password_files passwd,
    proxy_headers proxy,
    sessions session,
    topics topic,
    websockets websocket
}
