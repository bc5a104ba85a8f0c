//! The crate `regex` for this workspace: regex-lite, of the same keepers and with the same calls, under the other's name.
//!
//! async-nats wants `regex` with everything that it can do, and uses it for two things: the version that a server names, and the
//! frame around the keys in a file of credentials. That takes none of the engines for speed, nor the tables of Unicode.
//! What differs: `\w`, `\d`, `\s` and `(?i)` know ASCII only, and a search takes longer.

pub use regex_lite::*;

#[cfg(test)]
mod tests {
    use super::Regex;

    #[test]
    fn what_async_nats_looks_for_is_found() {
        let version = Regex::new(r"\Av?([0-9]+)\.?([0-9]+)?\.?([0-9]+)?").expect("async-nats has it");
        let found = version.captures("v2.14.1-beta.3").expect("a version");
        assert_eq!([1, 2, 3].map(|part| &found[part]), ["2", "14", "1"]);
        assert!(version.captures("devel").is_none());

        let keys = r"\s*(?:(?:[-]{3,}.*[-]{3,}\r?\n)([\w\-.=]+)(?:\r?\n[-]{3,}.*[-]{3,}\r?\n))";
        let keys = Regex::new(keys).expect("async-nats has it");
        for end in ["\n", "\r\n"] {
            let file = [
                "-----BEGIN NATS USER JWT-----",
                "eyJ0-eXAi_OiJK.V1Qi=",
                "------END NATS USER JWT------",
                "",
                "-----BEGIN USER NKEY SEED-----",
                "SUAK7ALK",
                "------END USER NKEY SEED------",
                "",
            ];
            let file = file.join(end);
            let found: Vec<String> = keys.captures_iter(&file).map(|found| found[1].to_owned()).collect();
            assert_eq!(found, ["eyJ0-eXAi_OiJK.V1Qi=", "SUAK7ALK"]);
        }
    }
}
