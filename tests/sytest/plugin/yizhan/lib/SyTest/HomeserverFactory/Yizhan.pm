use strict;
use warnings;

package SyTest::HomeserverFactory::Yizhan;

use base qw( SyTest::HomeserverFactory );

use File::Basename qw( dirname );
use Cwd qw( abs_path );

# the plugin's own lib directory is not on @INC when this file is loaded
use lib abs_path( dirname( __FILE__ ) . "/../.." );

require SyTest::Homeserver::Yizhan;

sub _init
{
   my $self = shift;

   $self->{implementation} = "yizhan";
   $self->{args} = {
      command              => $ENV{YIZHAN_COMMAND} // "python3 -m yizhan --config %c",
      command_cwd          => $ENV{YIZHAN_CWD},
      default_room_version => "11",
      client_tls           => 0,
      verify_tls           => 1,
      database_url         => undef,
      print_output         => 0,
   };

   $self->SUPER::_init( @_ );
}

# Decides which tests marked 'implementation_specific' are run (see --as)
sub implementation_name
{
   my $self = shift;
   return $self->{implementation};
}

sub get_options
{
   my $self = shift;

   return (
      'command=s'              => \$self->{args}{command},
      'command-cwd=s'          => \$self->{args}{command_cwd},
      'as=s'                   => \$self->{implementation},
      'default-room-version=s' => \$self->{args}{default_room_version},
      'client-tls!'            => \$self->{args}{client_tls},
      'verify-tls!'            => \$self->{args}{verify_tls},
      'database-url=s'         => \$self->{args}{database_url},
      'S|server-log+'          => \$self->{args}{print_output},
      $self->SUPER::get_options(),
   );
}

sub print_usage
{
   print STDERR <<'EOF'
       --command CMD            - shell command line that starts the server in
                                  the foreground; %c stands for the path of the
                                  config file, %i for the server's index.
                                  Default: $YIZHAN_COMMAND, or
                                  'python3 -m yizhan --config %c'

       --command-cwd DIR        - directory to run it in

       --as NAME                - run the tests that SyTest marks as specific to
                                  the implementation NAME (synapse, dendrite)

       --default-room-version V - room version that the server should give to
                                  new rooms (10; SyTest knows 1 to 11)

       --client-tls             - let clients use the TLS port as well, as with
                                  Synapse, instead of the plain HTTP port

       --no-verify-tls          - tell the server not to check certificates in
                                  federation, instead of trusting SyTest's CA

       --database-url URL       - database to use ('%i' stands for the server's
                                  index); default: a new SQLite file

   -S, --server-log             - pass the server's output through
EOF
}

sub create_server
{
   my $self = shift;
   my %params = ( @_, %{ $self->{args} } );

   return SyTest::Homeserver::Yizhan->new( %params );
}

1;
