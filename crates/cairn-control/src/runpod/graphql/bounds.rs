//! How much one GraphQL request may ask for, found out before anything is executed.
//!
//! The library limits depth and number of fields, but walks into every use of a fragment to count them, so a few fragments
//! that use each other several times cost it more than the query it guards against. Here each fragment is counted once.

use std::collections::HashMap;

use async_graphql::Name;
use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};
use async_graphql::parser::{Positioned, parse_query};

/// Fields inside fields.
pub(super) const DEPTH_MAX: usize = 16;
/// Fields in all, uses of fragments counted each time. The query by which tools learn a schema has about 200.
pub(super) const FIELDS_MAX: usize = 1000;
pub(super) const DIRECTIVES_MAX: usize = 16;
/// Nesting of any syntax, for the parser.
pub(super) const RECURSION_MAX: usize = 32;

/// A sentence if the query asks for too much. What is wrong with it otherwise is left to the library.
pub(super) fn check(query: &str) -> Result<(), String> {
    // The parser recurses; what is nested deeper than this is refused unseen.
    let (mut depth, mut deepest) = (0_usize, 0);
    for letter in query.bytes() {
        match letter {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > RECURSION_MAX * 2 {
        return Err("Query is nested too deep.".to_owned());
    }
    let Ok(document) = parse_query(query) else { return Ok(()) };
    let mut counter = Counter { document: &document, known: HashMap::new() };
    let mut fields = 0_usize;
    for (_, operation) in document.operations.iter() {
        fields = fields.saturating_add(counter.count(&operation.node.selection_set, 0)?);
    }
    if fields > FIELDS_MAX {
        return Err(format!("Query is too complex: it asks for more than {FIELDS_MAX} fields."));
    }
    Ok(())
}

struct Counter<'a> {
    document: &'a ExecutableDocument,
    /// Fields of fragments; `None` while one is being counted.
    known: HashMap<&'a Name, Option<usize>>,
}

impl<'a> Counter<'a> {
    fn count(&mut self, set: &'a Positioned<SelectionSet>, depth: usize) -> Result<usize, String> {
        if depth > RECURSION_MAX {
            return Err("Query is nested too deep.".to_owned());
        }
        let mut fields = 0_usize;
        for selection in &set.node.items {
            fields = fields.saturating_add(match &selection.node {
                Selection::Field(field) => self.count(&field.node.selection_set, depth + 1)?.saturating_add(1),
                Selection::InlineFragment(inline) => self.count(&inline.node.selection_set, depth + 1)?,
                Selection::FragmentSpread(spread) => self.fragment(&spread.node.fragment_name.node, depth)?,
            });
        }
        Ok(fields)
    }

    fn fragment(&mut self, name: &'a Name, depth: usize) -> Result<usize, String> {
        match self.known.get(name) {
            Some(Some(fields)) => return Ok(*fields),
            Some(None) => return Err("A fragment uses itself.".to_owned()),
            None => {}
        }
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(0) };
        self.known.insert(name, None);
        let fields = self.count(&fragment.node.selection_set, depth + 1)?;
        self.known.insert(name, Some(fields));
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::time::{Duration, Instant};

    use super::*;

    /// Each fragment uses the next one twice: 2^length fields in a short text.
    fn bomb(length: usize) -> String {
        let mut query = "{ myself { ...f0 } }".to_owned();
        for number in 0..length {
            let next = number + 1;
            let _ = write!(query, " fragment f{number} on User {{ ...f{next} ...f{next} }}");
        }
        let _ = write!(query, " fragment f{length} on User {{ id }}");
        query
    }

    #[test]
    fn fragments_that_multiply_are_found_at_once() {
        let begun = Instant::now();
        assert!(check(&bomb(20)).is_err());
        assert!(check(&bomb(30)).is_err());
        assert!(check(&bomb(2)).is_ok());
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn deep_and_circular_queries_are_refused() {
        let deep = format!("{}id{}", "{ myself ".repeat(100), "}".repeat(100));
        assert!(check(&deep).is_err());
        assert!(check(&"[".repeat(100_000)).is_err());
        assert!(check("{ myself { ...a } } fragment a on User { ...b } fragment b on User { ...a }").is_err());
    }

    #[test]
    fn what_clients_ask_passes() {
        assert!(check("{ myself { id networkVolumes { id name size dataCenterId } } }").is_ok());
        assert!(check("not a query").is_ok());
    }
}
