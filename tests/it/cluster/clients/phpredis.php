<?php
// phpredis' cluster client: HOST PORT, and TLS where CA_FILE names an authority. Works until the end of its input, as
// harness.py does. It has no pipelines and no sharded channels for a cluster.
[, $host, $port] = $argv;
$ca = getenv('CA_FILE');
$options = $ca ? ['cafile' => $ca] : null;

function connected(): RedisCluster
{
    global $host, $port, $options;
    return new RedisCluster(null, ["$host:$port"], 10, 10, false, null, $options);
}

$client = connected();
$reader = connected();
$reader->setOption(RedisCluster::OPT_SLAVE_FAILOVER, RedisCluster::FAILOVER_DISTRIBUTE_SLAVES);
$keys = array_map(fn($number) => "php:$number", range(0, 99));

function check($value, int $number): void
{
    if ($value === false || $value < 0 || $value > $number) {
        throw new Exception(var_export($value, true) . " instead of $number");
    }
}

function step(int $number): void
{
    global $client, $reader, $keys, $host;
    foreach ($client->_masters() as [$node]) {
        if ($node !== $host) {
            throw new Exception("$node is no address of ours");
        }
    }
    foreach ($keys as $key) {
        $client->set($key, $number);
    }
    foreach ($keys as $key) {
        check($client->get($key), $number);
        check($reader->get($key) ?: 0, $number);
    }
    $client->multi();
    $client->set('{php}one', $number);
    $client->incr('{php}two');
    $client->get('{php}one');
    check($client->exec()[2], $number);
    $client->mset(array_fill_keys($keys, $number));
    foreach ($client->mget($keys) as $value) {
        check($value, $number);
    }
}

stream_set_blocking(STDIN, false);
for ($number = 0; !feof(STDIN); $number++) {
    fgets(STDIN);
    try {
        step($number);
        echo "step\n";
    } catch (Throwable $error) {
        echo 'error ', get_class($error), ': ', $error->getMessage(), ' in line ', $error->getLine(), "\n";
    }
    usleep(25000);
}
echo "done\n";
