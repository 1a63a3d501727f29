# Names the lines of Markdown pages whose prose is wider than 80 columns. Code, tables, headings, pictures and the
# targets of links are not counted, nor is a word that has a line to itself.
FNR == 1 { in_code = 0 }
/^ *```/ { in_code = !in_code; next }
in_code || /^ *\|/ || /^#/ || /^!\[/ || /^<!--/ { next }
{
    line = $0
    gsub(/\]\([^)]*\)/, "]", line)
    # A character, not its bytes.
    gsub(/[\200-\277]/, "", line)
    words = line
    sub(/^ *(- )?/, "", words)
    if (length(line) > 80 && words ~ / /) {
        printf "%s:%d: %d columns\n", FILENAME, FNR, length(line)
        wide = 1
    }
}
END { exit wide }
