use strict;
use warnings;

package SyTest::Homeserver::Yizhan;

use base qw( SyTest::Homeserver );

use Carp;
use Cwd qw( getcwd );
use File::Path qw( remove_tree );
use Future;
use Future::Utils qw( repeat );
use JSON ();
use MIME::Base64 qw( encode_base64 );

use Crypt::Ed25519;
use SyTest::HTTPClient;
use SyTest::SSL qw( ensure_ssl_key create_ssl_cert );

# The link in a mail leads to a page with a button, because scanners of mails open links. SyTest
# opens it as well; here its reader presses the button.
{
   no warnings qw( redefine );
   my $do_request = \&SyTest::HTTPClient::do_request;

   *SyTest::HTTPClient::do_request = sub {
      my ( $self, %params ) = @_;

      my ( $page, $form ) = ( $params{full_uri} // "" ) =~ m{^(.*/_yizhan/account/email)\?(.*)$};
      my $f = $self->$do_request( %params );
      return $f unless defined $form and $params{method} eq "GET";

      return $f->then( sub {
         $self->$do_request(
            method       => "POST",
            full_uri     => $page,
            content_type => "application/x-www-form-urlencoded",
            content      => $form,
         );
      });
   };
}

sub _init
{
   my $self = shift;
   my ( $args ) = @_;

   $self->{$_} = delete $args->{$_} for qw(
      command command_cwd default_room_version client_tls verify_tls
      database_url print_output
   );

   $self->SUPER::_init( $args );

   my $idx = $self->{hs_index};
   $self->{ports} = {
      client     => main::alloc_port( "yizhan[$idx].client" ),
      federation => main::alloc_port( "yizhan[$idx].federation" ),
   };
}

#### What the tests ask of a server object

# No .well-known here: the name has to lead straight to the federation port
sub server_name
{
   my $self = shift;
   return "$self->{bind_host}:$self->{ports}{federation}";
}

sub federation_host { return $_[0]->{bind_host} }

sub federation_port { return $_[0]->{ports}{federation} }

sub public_baseurl
{
   my $self = shift;
   return $self->{client_tls}
      ? "https://$self->{bind_host}:$self->{ports}{federation}"
      : "http://$self->{bind_host}:$self->{ports}{client}";
}

sub start
{
   my $self = shift;

   my $hs_dir = $self->{hs_dir};
   my $output = $self->{output};

   # every run begins with an empty server
   unlink glob( "$hs_dir/homeserver.db*" );
   remove_tree( "$hs_dir/media" );
   unlink "$hs_dir/server.log";


   $self->{paths} = {
      cert => "$hs_dir/tls.crt",
      key  => "$hs_dir/tls.key",
      log  => "$hs_dir/server.log",
   };

   ensure_ssl_key( $self->{paths}{key} );
   create_ssl_cert( $self->{paths}{cert}, $self->{paths}{key}, $self->{bind_host} );

   $self->{paths}{signing_key} = $self->_write_signing_key;
   $self->{paths}{config} = $self->_write_config;

   my $command = $self->{command};
   $command =~ s/%c/$self->{paths}{config}/g;
   $command =~ s/%i/$self->{hs_index}/g;

   my $cd = defined $self->{command_cwd} ? "cd '$self->{command_cwd}' && " : "";
   my $redirect = $self->{print_output}
      ? "2>&1"
      : ">>'$self->{paths}{log}' 2>&1";

   # 'exec', so that the SIGINT at the end reaches the server and not a shell
   my @command = ( "/bin/sh", "-c", "${cd}exec $command $redirect" );

   $output->diag( "Starting server $self->{hs_index}: $command" );

   my $process = $self->_start_process(
      command => \@command,
      name    => "yizhan-$self->{hs_index}",
   );

   my $info = $self->{proc_info}{$process};
   $info->print_output = 1 if $self->{print_output};

   return Future->wait_any(
      $self->_await_versions->then( sub {
         $self->await_connectable( $self->{bind_host}, $self->{ports}{federation} )
      }),
      $info->finished_future->without_cancel->then( sub {
         Future->fail( "Server process died before it answered; see $self->{paths}{log}" );
      }),
   )->on_done( sub {
      $output->diag( "Started server $self->{hs_index} (" . $self->server_name . ")" );
   });
}

#### Internals

# one line, 'ed25519 KEYID SEED', the seed in unpadded base64
sub _write_signing_key
{
   my $self = shift;

   my $path = "$self->{hs_dir}/signing.key";
   return $path if -f $path;

   my $seed = encode_base64( Crypt::Ed25519::eddsa_secret_key(), "" );
   $seed =~ s/=+$//;

   return $self->_write_secret( "signing.key", "ed25519 a_sytest$self->{hs_index} $seed\n" );
}

sub _write_config
{
   my $self = shift;

   my $hs_dir = $self->{hs_dir};
   my $bind = $self->{bind_host};

   my $database = $self->{database_url} // "sqlite:///$hs_dir/homeserver.db";
   $database =~ s/%i/$self->{hs_index}/g;

   my ( $yes, $no ) = ( JSON::true, JSON::false );

   # SyTest has this secret hard-coded
   $self->_write_secret( "registration.secret", "reg_secret\n" );

   # They hold tokens
   my @registrations = @{ $self->{app_service_config_files} // [] };
   chmod 0600, @registrations;

   my %config = (
      server_name => $self->server_name,
      data        => $hs_dir,

      signing_key_file => $self->{paths}{signing_key},

      # Both listeners have to answer every path
      listen => {
         client => "$bind:$self->{ports}{client}",
         tls    => "$bind:$self->{ports}{federation}",
      },
      tls => {
         certificate => $self->{paths}{cert},
         key         => $self->{paths}{key},
      },
      public   => { client_baseurl => $self->public_baseurl },
      database => { url => $database },

      registration => {
         enabled                 => $yes,
         require_token           => $no,
         guests                  => $yes,
         minimum_password_length => 1,
         shared_secret_file      => "$hs_dir/registration.secret",
      },
      sessions    => { query_string_tokens => $yes },
      rate_limits => { enabled => $no },

      media => { path => "$hs_dir/media", unauthenticated_download => $yes },
      rooms => {
         default_version    => "$self->{default_room_version}",
         encrypt_by_default => "off",
      },
      url_previews => { enabled => $yes },
      directory => { everybody => $no, rooms_without_sign_in => $yes },
      presence  => { enabled => $yes, federated => $yes },
      retention => { self_destruction => $yes },
      identity  => { allow => [ "*" ] },
      email     => {
         host         => $self->{smtp_server_config}{host},
         port         => $self->{smtp_server_config}{port},
         security     => "none",
         from_address => "yizhan\@example.com",
      },
      appservices => { registrations => \@registrations },
      outbound  => { allow => [ "127.0.0.0/8", "localhost" ] },
      federation => {
         allow             => [ "*" ],
         private_addresses => [ "127.0.0.0/8" ],
         trusted_ca_files  => [ getcwd() . "/keys/ca.crt" ],
      },
   );

   if( my $cas = $self->{cas_config} ) {
      $config{sso} = { cas => {
         server_url             => $cas->{server_url},
         validation             => "proxyValidate",
         link_existing_accounts => $yes,
      } };
   }

   return $self->write_file( "config.json",
      JSON->new->canonical->pretty->utf8->encode( \%config ) );
}

# Yizhan refuses secrets that others can read
sub _write_secret
{
   my $self = shift;
   my ( $name, $text ) = @_;

   my $path = $self->write_file( $name, $text );
   chmod 0600, $path;
   return $path;
}

# wait for a good answer to GET /_matrix/client/versions
sub _await_versions
{
   my $self = shift;

   my $client = SyTest::HTTPClient->new( uri_base => $self->public_baseurl );
   $self->add_child( $client );

   my $give_up = time + 55 * $main::TIMEOUT_FACTOR;
   my $last_failure = "";

   my $f = repeat {
      Future->wait_any(
         $client->do_request_json(
            method   => "GET",
            full_uri => "/_matrix/client/versions",
         ),
         $self->loop->delay_future( after => 5 )->then_fail( "no answer in 5 seconds" ),
      )->then( sub {
         my ( $body ) = @_;
         ref $body eq "HASH" and ref $body->{versions} eq "ARRAY" or
            return Future->fail( "no list of versions in the answer" );
         Future->done( 1 );
      })->else( sub {
         ( $last_failure ) = @_;
         time > $give_up and
            return Future->fail( "The server did not answer /versions: $last_failure" );
         $self->loop->delay_future( after => 0.1 )->then_done( 0 );
      });
   } while => sub { !$_[0]->failure and !$_[0]->get };

   return $f->on_ready( sub { $self->remove_child( $client ) } );
}

1;
