//! A value of the file together with where it was given.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, Visitor};

use super::tree::NodeId;

/// A value, and the node of the tree it was read from; a default was read from none.
#[derive(Clone, Debug)]
pub(crate) struct Key<T> {
    /// The value.
    pub(crate) value: T,
    /// Where it was given.
    pub(crate) node: Option<NodeId>,
}

impl<T> From<T> for Key<T> {
    fn from(value: T) -> Key<T> {
        Key { value, node: None }
    }
}

impl<T: Default> Default for Key<T> {
    fn default() -> Key<T> {
        T::default().into()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Key<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key<T>, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        let node = Some(NodeId::from_span(&spanned.span()));
        Ok(Key { value: spanned.into_inner(), node })
    }
}

#[cfg(test)]
impl<T: serde::Serialize> serde::Serialize for Key<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

/// The keys that the struct `T` has in the file. `T` must be a struct with derived `Deserialize`.
pub(crate) fn keys_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // The collector always answers with an error: it has no value to give.
    let _ = T::deserialize(FieldCollector(&mut fields));
    fields
}

/// A deserializer that only notes which fields the struct asks for.
struct FieldCollector<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldCollector<'_> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(de::Error::custom("nothing here"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Self::Error> {
        *self.0 = fields;
        Err(de::Error::custom("nothing here"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// `true`, `false`, or a table with more to say.
#[derive(Clone, Debug, Default)]
pub(crate) enum Switch<T> {
    #[default]
    Off,
    On(T),
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Switch<T>, D::Error> {
        struct SwitchVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for SwitchVisitor<T> {
            type Value = Switch<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a table")
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Switch<T>, E> {
                Ok(if value { Switch::On(T::default()) } else { Switch::Off })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Switch<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Switch::On)
            }
        }
        deserializer.deserialize_any(SwitchVisitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
impl<T: serde::Serialize> serde::Serialize for Switch<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Switch::Off => serializer.serialize_bool(false),
            Switch::On(table) => table.serialize(serializer),
        }
    }
}
