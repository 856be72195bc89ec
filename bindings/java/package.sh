#!/usr/bin/env bash
# Makes what Java users install: package.sh OUTDIR. Under OUTDIR: the jar with classes and
# native library, jars of sources and documentation, and the POM for a Maven repository.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: bindings/java/package.sh OUTDIR" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)

tools/build.sh >&2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
classes=$work/classes
mapfile -t sources < <(find bindings/java/java -name '*.java' | sort)
javac -Xlint:all -Werror --release 11 -d "$classes" "${sources[@]}" >&2
javadoc -quiet -Xdoclint:all -Werror --release 11 -encoding UTF-8 -d "$work/javadoc" "${sources[@]}" >&2

printf '%s\n' "$version" >"$classes/ai/deepseek/version"
native=$classes/native/linux-x86_64
mkdir -p "$native" "$classes/META-INF"
cp "$target/release/libdeepseek_java.so" "$native/"
strip --strip-debug "$native/libdeepseek_java.so" 2>/dev/null || true
cp LICENSE "$classes/META-INF/LICENSE"
sed "s/@VERSION@/$version/" bindings/java/pom.xml.in >"$work/pom.xml"
mkdir -p "$classes/META-INF/maven/ai.deepseek/deepseek"
cp "$work/pom.xml" "$classes/META-INF/maven/ai.deepseek/deepseek/pom.xml"
printf 'Implementation-Title: deepseek\nImplementation-Version: %s\n' "$version" >"$work/manifest"

name=$out/deepseek-$version
rm -f "$out"/deepseek-*.jar "$out"/deepseek-*.pom
jar --create --file "$name.jar" --manifest "$work/manifest" --module-version "$version" -C "$classes" .
jar --create --file "$name-sources.jar" -C bindings/java/java .
jar --create --file "$name-javadoc.jar" -C "$work/javadoc" .
cp "$work/pom.xml" "$name.pom"
