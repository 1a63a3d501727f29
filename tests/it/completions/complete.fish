# complete.fish LINE…: prints what is offered behind each line.
source $DIRECTORY/redis-ambassador.fish
for line in $argv
    echo "= $line"
    complete -C $line
end
