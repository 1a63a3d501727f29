# complete.zsh LINE…: types each line into another zsh on a pseudo terminal, presses Tab, and prints what is offered. The
# completions are in $DIRECTORY.
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PROMPT= fpath=($DIRECTORY $fpath); autoload -Uz compinit; compinit -u -D'
# With -O, -A and -D candidates are only sorted.
zpty -w shell 'compadd() { [[ " ${(j: :)@[1,(i)(-|--)]}" == *\ -[OAD]\ * ]] || { local -a offered; builtin compadd -A offered "$@"; print -l -- $offered >>$DIRECTORY/offered }; builtin compadd "$@" }'
zpty -w shell 'tell() { BUFFER=; print -r -- "off""ered" }; zle -N tell; bindkey "^I" complete-word "^X" tell; print "rea""dy"'
zpty -r shell out '*ready*'
for line; do
    : >$DIRECTORY/offered
    zpty -w -n shell "$line"$'\t\x18'
    zpty -r shell out '*offered*'
    print -r -- "= $line"
    cat $DIRECTORY/offered
done
zpty -d shell
