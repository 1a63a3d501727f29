# Gives Sidekiq work to do while it is told to, as harness.py does.
require_relative 'sidekiq_jobs'

$stdout.sync = true
mode = 'load'
lock = Mutex.new
heard = ConditionVariable.new
Thread.new do
  while (line = $stdin.gets)
    lock.synchronize { mode = line.strip; heard.signal }
  end
  lock.synchronize { mode = 'end'; heard.signal }
end
number = 0
until mode == 'end'
  if mode == 'idle'
    puts 'idle'
    lock.synchronize { heard.wait(lock) while mode == 'idle' }
    next
  end
  begin
    Append.perform_async(number)
    puts 'step'
  rescue StandardError => e
    puts "error #{e.class}: #{e.message}"
  end
  number += 1
  sleep 0.025
end
puts 'done'
