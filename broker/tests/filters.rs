//! The log's filters over subjects and MQTT's over topics take the same.

use headwater_broker::log::SubjectFilter;
use headwater_broker::mqtt::topic::{TopicFilter, TopicName};
use proptest::prelude::*;

fn text(levels: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(levels), 1..6).prop_map(|levels| levels.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_logs_filters_take_what_mqtts_take(
        filter in text(&["", "a", "b", "$x", "$", "+", "#", "a+", "größe"]),
        topic in text(&["", "a", "b", "$x", "$", "größe"]),
    ) {
        let Ok(mqtt) = filter.parse::<TopicFilter>() else {
            // What is valid here and not there: nothing that MQTT could say.
            prop_assert!(SubjectFilter::new(filter.clone()).is_err(), "{}", filter);
            return Ok(());
        };
        let log = SubjectFilter::new(filter).expect("valid in MQTT");
        let Ok(name) = topic.parse::<TopicName>() else { return Ok(()) };
        prop_assert_eq!(log.matches(topic.as_bytes()), mqtt.matches(&name));
    }
}
