//! Values of fields that make an instruction illegal: the one table that simulator and documentation are made of.

use super::{Instruction, Opcode};

/// A rule for the values of an instruction's fields.
pub(super) struct Rule {
    /// The instructions it holds for.
    pub opcodes: &'static [Opcode],
    /// What must hold.
    pub text: &'static str,
    /// Whether it holds, for the values of the fields and the columns of the array.
    holds: fn(&dyn Fn(&str) -> i64, i64) -> bool,
}

pub(super) const RULES: [Rule; 9] = [
    Rule {
        opcodes: &[Opcode::Conv, Opcode::Aux, Opcode::Add],
        text: "`lo` ≤ `hi`",
        holds: |get, _| get("lo") <= get("hi"),
    },
    Rule {
        opcodes: &[Opcode::Conv, Opcode::Aux],
        text: "`lgpo` ≤ 6, `p0` < 2^`lgpo`",
        holds: |get, _| get("lgpo") <= 6 && get("p0") < 1 << get("lgpo"),
    },
    Rule { opcodes: &[Opcode::Conv], text: "`lgp` ≤ 6", holds: |get, _| get("lgp") <= 6 },
    Rule { opcodes: &[Opcode::Conv], text: "`lgt` ≤ 4", holds: |get, _| get("lgt") <= 4 },
    Rule {
        opcodes: &[Opcode::Conv],
        text: "with `wbip`: `wbits` = 1, `wsigned` = 0",
        holds: |get, _| get("wbip") == 0 || get("wbits") == 1 && get("wsigned") == 0,
    },
    Rule { opcodes: &[Opcode::Conv], text: "`col` ≤ COLS", holds: |get, columns| get("col") <= columns },
    Rule { opcodes: &[Opcode::Aux], text: "`mode` ≤ 2", holds: |get, _| get("mode") <= 2 },
    Rule { opcodes: &[Opcode::Aux], text: "`lgs` ≤ 6", holds: |get, _| get("lgs") <= 6 },
    Rule {
        opcodes: &[Opcode::Aux],
        text: "with `lgs` > 0: `mode` ≤ 1, `kh` = `kw` = 3",
        holds: |get, _| get("lgs") == 0 || get("mode") <= 1 && get("kh") == 3 && get("kw") == 3,
    },
];

impl Instruction {
    /// What the values of its fields violate on a chip with so many columns, as section 5 of the specification words it. Instructions that
    /// [`opcode`](Instruction::opcode) does not know are illegal anyway.
    pub fn violation(&self, columns: usize) -> Option<&'static str> {
        let op = self.opcode()?;
        let fields = op.fields();
        let get = |name: &str| fields.iter().find(|f| f.name == name).map_or(0, |f| f.get(&self.0));
        let rules = RULES.iter().filter(|r| r.opcodes.contains(&op));
        rules.filter(|r| !(r.holds)(&get, columns as i64)).map(|r| r.text).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields just beyond what is legal, with their neighbours that are.
    #[test]
    fn every_rule_has_an_edge() {
        type Fields = &'static [(&'static str, i64)];
        let cases: [(Opcode, Fields, Fields); 14] = [
            (Opcode::Conv, &[("lo", 5), ("hi", 5)], &[("lo", 6), ("hi", 5)]),
            (Opcode::Aux, &[("lo", -256), ("hi", -256)], &[("lo", 0), ("hi", -1)]),
            (Opcode::Add, &[("lo", -1), ("hi", 0)], &[("lo", 0), ("hi", -1)]),
            (Opcode::Conv, &[("lgpo", 6), ("p0", 63)], &[("lgpo", 7)]),
            (Opcode::Aux, &[("lgpo", 1), ("p0", 1)], &[("lgpo", 1), ("p0", 2)]),
            (Opcode::Aux, &[("lgpo", 0), ("p0", 0)], &[("lgpo", 0), ("p0", 1)]),
            (Opcode::Conv, &[("lgp", 6)], &[("lgp", 7)]),
            (Opcode::Conv, &[("lgt", 4)], &[("lgt", 5)]),
            (Opcode::Conv, &[("wbip", 1), ("wbits", 1)], &[("wbip", 1), ("wbits", 2)]),
            (Opcode::Conv, &[("wbip", 1), ("wsigned", 0)], &[("wbip", 1), ("wsigned", 1)]),
            (Opcode::Conv, &[("col", 8)], &[("col", 9)]),
            (Opcode::Aux, &[("mode", 2)], &[("mode", 3)]),
            (Opcode::Aux, &[("lgs", 6), ("kh", 3), ("kw", 3)], &[("lgs", 7), ("kh", 3), ("kw", 3)]),
            (Opcode::Aux, &[("lgs", 1), ("mode", 1), ("kh", 3), ("kw", 3)], &[("lgs", 1), ("kh", 3), ("kw", 2)]),
        ];
        let mut seen = Vec::new();
        for (op, good, bad) in cases {
            let made = |fields| Instruction::new(op).with(fields).unwrap();
            assert_eq!(made(good).violation(8), None, "{op:?} {good:?}");
            let violation = made(bad).violation(8);
            assert!(violation.is_some(), "{op:?} {bad:?}");
            seen.extend(violation);
        }
        for rule in &RULES {
            assert!(seen.contains(&rule.text), "no case for {}", rule.text);
        }
        assert_eq!(Instruction::new(Opcode::Conv).with(&[("col", 9)]).unwrap().violation(16), None);
    }
}
