# A job of Sidekiq's.
require 'sidekiq'

url = { url: ENV.fetch('REDIS_URL') }
Sidekiq.configure_server { |config| config.redis = url }
Sidekiq.configure_client { |config| config.redis = url }

class Append
  include Sidekiq::Worker
  sidekiq_options retry: false

  def perform(number)
    Sidekiq.redis { |redis| redis.rpush('done:sidekiq', number) }
  end
end
