#!/usr/bin/env bash
# Semantic search over this project's own documentation with the real all-MiniLM-L6-v2
# encoder, from a C, a C++, a Node and a Java program in turn; then a dynamic graph, 50 lengths
# through one plan. Scores and results agree bit for bit.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "demo: $1" >&2; exit 1; }

work=build/demo
mkdir -p "$work"
# One paragraph a line: prose blocks of the documentation, without code, tables and headings.
python3 tools/paragraphs.py README.md CONTRIBUTING.md docs/*.md >"$work/corpus.txt"
cp examples/questions.txt "$work/questions.txt"

declare -A program
for language in c cpp node java; do
    echo "building the $language example"
    command=$(examples/"$language"/build.sh "$work/$language" 2>"$work/$language.log") ||
        { cat "$work/$language.log" >&2; fail "the $language example did not build; see above"; }
    program[$language]=$command
done

for language in c cpp node java; do
    printf '\n== %s ==\n' "$language"
    # shellcheck disable=SC2086 # the command is a program with its leading arguments
    ${program[$language]} build/minilm "$work/corpus.txt" "$work/questions.txt" |
        tee "$work/$language.out" || fail "the $language example failed"
    grep -v '^# ' "$work/$language.out" >"$work/$language.hits"
    cmp -s "$work/c.hits" "$work/$language.hits" || {
        diff "$work/c.hits" "$work/$language.hits" | head -5 >&2
        fail "$language ranks or scores differ from C"
    }
done
printf '\nC, C++, Node and Java agree on every hit and every bit of every score.\n'

for language in c cpp node java; do
    command=$(sed -E 's/search(\.mjs)?$/dynamic\1/; s/Search$/Dynamic/' <<<"${program[$language]}")
    $command >"$work/$language.dynamic" || fail "the dynamic graph of the $language example failed"
    cmp -s "$work/c.dynamic" "$work/$language.dynamic" || {
        diff "$work/c.dynamic" "$work/$language.dynamic" | head -5 >&2
        fail "the dynamic graph's results in $language differ from C"
    }
done
printf '\n== dynamic graph ==\n'
sed -n '1,3p;$p' "$work/c.dynamic"
awk '/ planned/ && $3 != $6 { exit 1 }' "$work/c.dynamic" ||
    fail "a run did not take the bytes that were planned for it"
printf 'All four languages agree, and every run took exactly the bytes that were planned.\n'
