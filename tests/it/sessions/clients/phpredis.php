<?php
// A page that authenticates with every request, as phpredis' users do, on a persistent connection (pconnect) or on one of
// its own (connect).
$redis = new Redis();
$connect = getenv('REDIS_CONNECT');
$redis->$connect(getenv('REDIS_HOST'), (int) getenv('REDIS_PORT'), 20);
if (!$redis->auth('a-password-of-staging')) {
    die('AUTH was refused');
}
$redis->select(5);
$number = $_GET['number'];
$redis->rPush('php', $number);
// A failover of Sentinel's loses what was written in its midst.
echo $redis->lIndex('php', -1) <= $number ? 'ok' : 'another number';
