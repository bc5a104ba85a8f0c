//! The file and what overrides it, merged into one tree that remembers where every value was given.
//!
//! Every value gets a number. It is handed to serde in place of the byte span that the TOML parser found, so that an
//! error of serde or a check of ours leads back to the file, the variable or the flag alike.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{ConfigError, Location, nearest};

/// More errors than this are not listed: the first ones have to be mended anyway.
const MAX_ERRORS: usize = 50;

/// The number of a value in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(usize);

impl NodeId {
    pub(crate) fn from_span(span: &Range<usize>) -> NodeId {
        NodeId(span.start)
    }

    /// Stands for the value; that of its key is empty.
    fn value_span(self) -> Range<usize> {
        self.0..self.0 + 1
    }

    fn key_span(self) -> Range<usize> {
        self.0..self.0
    }
}

/// A value from outside the file.
#[derive(Clone, Debug)]
pub struct Override {
    /// The variable or flag, as the user wrote it.
    pub origin: String,
    /// Section and key. A number picks an element of a list, one past the last adds one, and so does `+`.
    pub path: Vec<String>,
    /// The value.
    pub value: Given,
}

/// How an override was written.
#[derive(Clone, Debug)]
pub enum Given {
    /// Text whose type its place decides: a number where a number is expected, TOML if it looks like a list or table.
    Text(String),
    /// TOML. It comes from our own code and must parse.
    Toml(String),
}

#[derive(Debug)]
struct Node {
    path: String,
    key: Location,
    value: Location,
    /// The same value as a string, to be tried if the place wants one.
    text: Option<String>,
}

/// The merged tree.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    root: DeTable<'a>,
    nodes: Vec<Node>,
    /// First complaint about a value that is now tried as a string.
    doubts: Vec<(NodeId, String)>,
}

impl<'a> Tree<'a> {
    /// Reads `text` (named `name` in messages) and puts `overrides` over it, in order.
    pub(crate) fn new(name: &str, text: &'a str, overrides: &'a [Override]) -> Result<Tree<'a>, Vec<ConfigError>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let places = Places { name, text, overrides };
        let mut errors: Vec<ConfigError> = errors
            .iter()
            .take(MAX_ERRORS)
            .map(|e| ConfigError {
                location: places.location(&e.span().unwrap_or_default()),
                key: String::new(),
                message: e.message().to_owned(),
            })
            .collect();
        let mut root = DeValue::Table(root.into_inner());
        for (index, given) in overrides.iter().enumerate() {
            if let Err(message) = put(&mut root, given, text.len() + 1 + index) {
                errors.push(ConfigError {
                    location: Location::Outside(given.origin.clone()),
                    key: given.path.join("."),
                    message,
                });
            }
        }
        if !errors.is_empty() {
            errors.sort();
            return Err(errors);
        }
        let mut nodes =
            vec![Node { path: String::new(), key: Location::Nowhere, value: Location::Nowhere, text: None }];
        match number(root, "", &places, &mut nodes) {
            DeValue::Table(root) => Ok(Tree { root, nodes, doubts: Vec::new() }),
            _ => unreachable!("a document is a table"),
        }
    }

    /// Reads the tree into `T`. A value that does not fit is noted and left out, so that all errors are found.
    pub(crate) fn read<T: DeserializeOwned>(
        &mut self,
        keys_at: fn(&str) -> &'static [&'static str],
    ) -> Result<T, Vec<ConfigError>> {
        let mut errors = Vec::new();
        loop {
            let document = Spanned::new(NodeId(0).value_span(), self.root.clone());
            match T::deserialize(toml::Deserializer::from(document)) {
                Ok(value) if errors.is_empty() => return Ok(value),
                Ok(_) => break,
                Err(error) => {
                    let span = error.span().unwrap_or_default();
                    let id = NodeId::from_span(&span);
                    if !span.is_empty() && self.retry_as_text(id, error.message()) {
                        continue;
                    }
                    errors.push(self.complaint(id, span.is_empty(), error.message(), keys_at));
                    if !remove(&mut self.root, id) || errors.len() == MAX_ERRORS {
                        break;
                    }
                }
            }
        }
        errors.sort();
        Err(errors)
    }

    /// An error about a value, or about nothing that was given.
    pub(crate) fn error(&self, node: Option<NodeId>, message: impl Into<String>) -> ConfigError {
        let message = message.into();
        match node.and_then(|id| self.nodes.get(id.0)) {
            Some(node) => ConfigError { location: node.value.clone(), key: node.path.clone(), message },
            None => ConfigError { location: Location::Nowhere, key: String::new(), message },
        }
    }

    fn complaint(
        &self,
        id: NodeId,
        about_key: bool,
        message: &str,
        keys_at: fn(&str) -> &'static [&'static str],
    ) -> ConfigError {
        let Some(node) = self.nodes.get(id.0) else { return self.error(None, humane(message)) };
        let location = if about_key { &node.key } else { &node.value };
        let message = match about_key && message.starts_with("unknown field") {
            true => unknown_key(&node.path, keys_at),
            false => match self.doubts.iter().find(|(doubted, _)| *doubted == id) {
                Some((_, first)) => humane(first),
                None => humane(message),
            },
        };
        ConfigError { location: location.clone(), key: node.path.clone(), message }
    }

    /// A value from outside that was taken for a number may have been meant as a string.
    fn retry_as_text(&mut self, id: NodeId, message: &str) -> bool {
        let Some(text) = self.nodes.get_mut(id.0).and_then(|node| node.text.take()) else { return false };
        self.doubts.push((id, message.to_owned()));
        replace(&mut self.root, id, text)
    }
}

/// Turns spans into locations.
struct Places<'a> {
    name: &'a str,
    text: &'a str,
    overrides: &'a [Override],
}

impl Places<'_> {
    fn location(&self, span: &Range<usize>) -> Location {
        if let Some(given) = span.start.checked_sub(self.text.len() + 1).and_then(|index| self.overrides.get(index)) {
            return Location::Outside(given.origin.clone());
        }
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Location::File {
            name: self.name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn text_of(&self, span: &Range<usize>) -> Option<String> {
        let given = self.overrides.get(span.start.checked_sub(self.text.len() + 1)?)?;
        match &given.value {
            Given::Text(text) => Some(text.clone()),
            Given::Toml(_) => None,
        }
    }
}

/// Puts one override in its place; every span of it becomes `place`.
fn put<'a>(root: &mut DeValue<'a>, given: &'a Override, place: usize) -> Result<(), String> {
    let value = match &given.value {
        Given::Toml(text) => placed(parse(text)?, place),
        Given::Text(text) => {
            let looks_like_toml = text.trim_start().starts_with(['[', '{', '"', '\'']);
            match parse(text) {
                Err(message) if looks_like_toml => return Err(message),
                Ok(value) if looks_like_toml || value.is_integer() || value.is_bool() => placed(value, place),
                _ => DeValue::String(Cow::Borrowed(text)),
            }
        }
    };
    let mut at = root;
    let mut steps = given.path.iter().peekable();
    while let Some(step) = steps.next() {
        let list_follows = steps.peek().is_some_and(|next| *next == "+" || next.parse::<usize>().is_ok());
        let empty = if list_follows { DeValue::Array(DeArray::new()) } else { DeValue::Table(DeTable::new()) };
        let next = match at {
            DeValue::Table(table) => table
                .entry(Spanned::new(place..place, Cow::Borrowed(step.as_str())))
                .or_insert_with(|| Spanned::new(place..place, empty)),
            DeValue::Array(list) => element(list, step, place)?,
            other => return Err(format!("`{step}` cannot be set in a {}", other.type_str())),
        };
        if steps.peek().is_none() {
            *next = Spanned::new(place..place, value);
            return Ok(());
        }
        at = next.get_mut();
    }
    Err("names no key".to_owned())
}

/// The element of a list that `index` names, made if it is the one behind the last.
fn element<'a, 'i>(
    list: &'a mut DeArray<'i>,
    index: &str,
    place: usize,
) -> Result<&'a mut Spanned<DeValue<'i>>, String> {
    let length = list.len();
    let index = match index {
        "+" => length,
        _ => index.parse().map_err(|_| format!("a list: expected the number of an element, found `{index}`"))?,
    };
    if index == length {
        list.push(Spanned::new(place..place, DeValue::Table(DeTable::new())));
    }
    list.get_mut(index).ok_or_else(|| format!("there is no element {index}: the next one to add is {length}"))
}

fn parse(text: &str) -> Result<DeValue<'_>, String> {
    DeValue::parse(text).map(Spanned::into_inner).map_err(|e| e.message().to_owned())
}

/// The same value with every span in it at `place`.
fn placed(value: DeValue<'_>, place: usize) -> DeValue<'_> {
    match value {
        DeValue::Array(items) => {
            let mut list = DeArray::new();
            for item in items.iter() {
                list.push(Spanned::new(place..place, placed(item.get_ref().clone(), place)));
            }
            DeValue::Array(list)
        }
        DeValue::Table(table) => {
            let entry = |(key, value): (Spanned<_>, Spanned<_>)| {
                let value = placed(value.into_inner(), place);
                (Spanned::new(place..place, key.into_inner()), Spanned::new(place..place, value))
            };
            DeValue::Table(table.into_iter().map(entry).collect())
        }
        scalar => scalar,
    }
}

/// The same value with every span in it replaced by the number of a new node.
fn number<'a>(value: DeValue<'a>, path: &str, places: &Places<'_>, nodes: &mut Vec<Node>) -> DeValue<'a> {
    let add = |nodes: &mut Vec<Node>, path: String, key: &Range<usize>, value: &Range<usize>| {
        let (key, text) = (places.location(key), places.text_of(value));
        nodes.push(Node { path, key, value: places.location(value), text });
        NodeId(nodes.len() - 1)
    };
    match value {
        DeValue::Array(items) => {
            let mut list = DeArray::new();
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                let id = add(nodes, path.clone(), &item.span(), &item.span());
                let value = number(item.get_ref().clone(), &path, places, nodes);
                list.push(Spanned::new(id.value_span(), value));
            }
            DeValue::Array(list)
        }
        DeValue::Table(table) => {
            let mut copy = DeTable::new();
            for (key, value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{}", key.get_ref());
                let id = add(nodes, path.clone(), &key.span(), &value.span());
                let value = number(value.into_inner(), &path, places, nodes);
                copy.insert(Spanned::new(id.key_span(), key.into_inner()), Spanned::new(id.value_span(), value));
            }
            DeValue::Table(copy)
        }
        scalar => scalar,
    }
}

/// Takes the value of that number out of the table; false if it is not there.
fn remove(table: &mut DeTable<'_>, id: NodeId) -> bool {
    let found = table.iter().find(|(_, value)| NodeId::from_span(&value.span()) == id).map(|(key, _)| key.clone());
    match found {
        Some(key) => table.remove(&key).is_some(),
        None => table.iter_mut().any(|(_, value)| remove_within(value.get_mut(), id)),
    }
}

fn remove_within(value: &mut DeValue<'_>, id: NodeId) -> bool {
    match value {
        DeValue::Table(table) => remove(table, id),
        DeValue::Array(list) => {
            let kept = list.iter().filter(|item| NodeId::from_span(&item.span()) != id);
            let mut copy = DeArray::new();
            kept.for_each(|item| copy.push(item.clone()));
            if copy.len() < list.len() {
                *list = copy;
                return true;
            }
            list.iter_mut().any(|item| remove_within(item.get_mut(), id))
        }
        _ => false,
    }
}

/// Replaces the value of that number by a string; false if it is not there.
fn replace(table: &mut DeTable<'_>, id: NodeId, text: String) -> bool {
    fn within<'v, 'i>(value: &'v mut Spanned<DeValue<'i>>, id: NodeId) -> Option<&'v mut Spanned<DeValue<'i>>> {
        if NodeId::from_span(&value.span()) == id {
            return Some(value);
        }
        match value.get_mut() {
            DeValue::Table(table) => table.iter_mut().find_map(|(_, value)| within(value, id)),
            DeValue::Array(list) => list.iter_mut().find_map(|value| within(value, id)),
            _ => None,
        }
    }
    match table.iter_mut().find_map(|(_, value)| within(value, id)) {
        Some(value) => {
            *value.get_mut() = DeValue::String(Cow::Owned(text));
            true
        }
        None => false,
    }
}

fn unknown_key(path: &str, keys_at: fn(&str) -> &'static [&'static str]) -> String {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let section: String = strip_indices(section);
    let keys = keys_at(&section);
    match nearest(key, keys) {
        Some(near) => format!("unknown key: did you mean `{near}`?"),
        None => format!("unknown key: expected one of {}", keys.join(", ")),
    }
}

fn strip_indices(path: &str) -> String {
    let mut depth = 0_usize;
    let outside = |c: &char| {
        depth += usize::from(*c == '[');
        let keep = depth == 0;
        // A quoted key may hold a bracket of its own.
        depth = depth.saturating_sub(usize::from(*c == ']'));
        keep
    };
    path.chars().filter(outside).collect()
}

/// The words of serde in words of the file.
fn humane(message: &str) -> String {
    const WORDS: [(&str, &str); 11] = [
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number from 0"),
        ("expected a boolean", "expected true or false"),
        (
            "invalid type: map, expected a sequence",
            "expected a list: write this section's name in double brackets, [[...]]",
        ),
        ("expected a sequence", "expected a list such as [\"a\", \"b\"]"),
        ("expected a map", "expected a section"),
        ("invalid type: map", "found a section"),
        ("invalid type: ", "found "),
        ("invalid value: ", "found "),
    ];
    let mut text = message.to_owned();
    for (serde, ours) in WORDS {
        if let Some(index) = text.find(serde) {
            let end = index + serde.len();
            // Whole words only: `expected u8` is not the beginning of something longer.
            if !text[end..].starts_with(|c: char| c.is_ascii_alphanumeric()) || serde.ends_with(' ') {
                text.replace_range(index..end, ours);
            }
        }
    }
    match text.find("expected struct ") {
        Some(index) => text[..index].to_owned() + "expected a section",
        None => text,
    }
}
