//! What a stored tree (`pg_node_tree`) of a rule, a view or a function's body does with the value of a call. In: the tree's
//! text. Out: where the value is put, and which columns a view shows. No IO, and no table is locked, as printing it would.

/// `nextval(regclass)`, in every version.
pub(super) const NEXTVAL: u32 = 1574;

/// Where the value of a call is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// Into the column of this number, of the table that is written to.
    Column(i32),
    /// Among what the only query shows.
    Shown,
    Unknown,
}

struct Node<'a> {
    text: &'a str,
    /// Calls whose value this target takes.
    calls: usize,
}

impl Node<'_> {
    fn is(&self, name: &str) -> bool {
        self.text.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '))
    }

    fn number(&self, field: &str) -> Option<u32> {
        let (_, value) = self.text.split_once(field)?;
        value.split([' ', '}']).next()?.parse().ok()
    }

    /// Casts, and what only chooses between values.
    fn hands_on(&self) -> bool {
        let is_builtin = |function: u32| function < 16_384;
        ["RELABELTYPE", "COALESCEEXPR", "COALESCE", "COERCEVIAIO"].iter().any(|name| self.is(name))
            || self.is("FUNCEXPR") && self.number(":funcid ").is_some_and(is_builtin)
    }
}

/// Goes through a tree: `opened` and `closed` are given the nodes around.
fn walk<'a>(
    tree: &'a str,
    mut opened: impl FnMut(&mut Vec<Node<'a>>),
    mut closed: impl FnMut(&[Node<'a>], Node<'a>, &'a str),
) {
    let mut around: Vec<Node<'a>> = Vec::new();
    let mut is_escaped = false;
    for (at, byte) in tree.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'{' => {
                let text = tree.get(at.saturating_add(1)..).unwrap_or_default();
                around.push(Node { text, calls: 0 });
                opened(&mut around);
            }
            b'}' => {
                if let Some(node) = around.pop() {
                    let before = tree.get(..at).unwrap_or_default();
                    closed(&around, node, before);
                }
            }
            _ => {}
        }
    }
}

/// Every call of the functions.
pub(super) fn calls(tree: &str, functions: &[u32]) -> Vec<Put> {
    let (mut unknown, mut found) = (0_usize, Vec::new());
    let opened = |around: &mut Vec<Node<'_>>| {
        let Some((call, outer)) = around.split_last_mut() else { return };
        let is_call = call.is("FUNCEXPR") && call.number(":funcid ").is_some_and(|f| functions.contains(&f));
        if !is_call {
            return;
        }
        match outer.iter_mut().rev().find(|node| !node.hands_on()) {
            Some(target) if target.is("TARGETENTRY") => target.calls = target.calls.saturating_add(1),
            _ => unknown = unknown.saturating_add(1),
        }
    };
    let closed = |around: &[Node<'_>], node: Node<'_>, before: &str| {
        if node.calls == 0 {
            return;
        }
        let query = around.last().filter(|query| query.is("QUERY"));
        let number = last(before, ":resno ").and_then(|number| number.parse().ok());
        let put = match (query.and_then(|query| query.number(":commandType ")), number) {
            (Some(2 | 3), Some(number)) => Put::Column(number),
            (Some(1), _) if around.len() == 1 => Put::Shown,
            _ => Put::Unknown,
        };
        found.extend(std::iter::repeat_n(put, node.calls));
    };
    walk(tree, opened, closed);
    found.extend(std::iter::repeat_n(Put::Unknown, unknown));
    found
}

/// The column of a table or view below that a view shows as its column `number`, as it is: its relation, and its number.
pub(super) fn origin(tree: &str, number: i32) -> Option<(u32, i32)> {
    let mut found = None;
    let closed = |around: &[Node<'_>], node: Node<'_>, before: &str| {
        let is_shown =
            node.is("TARGETENTRY") && around.len() == 1 && around.iter().all(|query| query.is("QUERY"));
        if is_shown && last(before, ":resno ").and_then(|text| text.parse().ok()) == Some(number) {
            let relation =
                last(before, ":resorigtbl ").and_then(|text| text.parse().ok()).filter(|oid| *oid > 0);
            found = relation.zip(last(before, ":resorigcol ").and_then(|text| text.parse().ok()));
        }
    };
    walk(tree, |_| {}, closed);
    found
}

/// The last value of a field.
fn last<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.rsplit_once(field)?.1.split([' ', '}', ')']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = "({QUERY :commandType 3 :rtable ({RTE :eref {ALIAS :aliasname old\\ \\{ :colnames <>}}) :targetList ({TARGETENTRY \
        :expr {FUNCEXPR :funcid 480 :args ({FUNCEXPR :funcid 1574 :args ({CONST :consttype 2205})})} :resno 2 :resname id \
        :resorigtbl 0 :resorigcol 0 :resjunk false} {TARGETENTRY :expr {VAR :varno 2} :resno 3 :resname note :resorigtbl 16400 \
        :resorigcol 5 :resjunk false}) :override 0})";

    #[test]
    fn the_column_that_takes_a_call_is_told() {
        assert_eq!(calls(RULE, &[NEXTVAL]), [Put::Column(2)]);
        assert_eq!(calls(RULE, &[17_000]), []);
        assert_eq!(calls(&RULE.replace("commandType 3", "commandType 1"), &[NEXTVAL]), [Put::Shown]);
        assert_eq!(
            calls(&RULE.replace("FUNCEXPR :funcid 480", "OPEXPR :opno 480"), &[NEXTVAL]),
            [Put::Unknown]
        );
        assert_eq!(origin(RULE, 3), Some((16_400, 5)));
        assert_eq!(origin(RULE, 2), None);
    }
}
