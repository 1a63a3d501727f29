# complete.bash LINE…: calls what bash calls when Tab is pressed behind each line, and prints what is offered.
source "$DIRECTORY/redis-ambassador"
completing=$(complete -p redis-ambassador)
completing=${completing#*-F }
completing=${completing%% *}
# There is no line that is being edited.
compopt() { :; }
for line; do
    read -ra COMP_WORDS <<<"$line"
    [[ $line != *' ' ]] || COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
    "$completing" redis-ambassador "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '= %s\n' "$line"
    printf '%s\n' "${COMPREPLY[@]}"
done
